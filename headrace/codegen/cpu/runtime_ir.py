"""LLVM IR of the runtime module: programs of a grid spread over threads, and memory for each of them.

:mod:`headrace.codegen.cpu.runtime` says what it does; :mod:`.call_ir` is the part that Python calls.
"""

from __future__ import annotations

from headrace.codegen.cpu import call_ir

# Context passed to every worker: arguments, grid (and padding), programs, programs per chunk, the message of
# the first failed tt.assert, the worker, chunks, and a byte per chunk that is 1 once a thread has taken it.
CONTEXT = "{ ptr, i32, i32, i32, i32, i64, i64, ptr, ptr, i64, ptr }"
CHUNKS_PER_THREAD = 8

_TEXT = f"""
%context = type {CONTEXT}
@hr_forked = global i32 0
@hr_key = global i32 0
@hr_launch = global i32 0
@data_ptr = internal global ptr null
@numel = internal global ptr null
@is_cpu = internal global ptr null
@.data_ptr = internal constant [9 x i8] c"data_ptr\\00"
@.numel = internal constant [6 x i8] c"numel\\00"
@.is_cpu = internal constant [7 x i8] c"is_cpu\\00"

declare i32 @pthread_key_create(ptr, ptr)
declare ptr @pthread_getspecific(i32)
declare i32 @pthread_setspecific(i32, ptr)
declare void @free(ptr)
declare ptr @aligned_alloc(i64, i64)
declare ptr @PyUnicode_InternFromString(ptr)
declare void @abort()
PARALLEL

; Called once with the GIL held.
define i32 @hr_init() {{
  %s = call ptr @PyUnicode_InternFromString(ptr @.data_ptr)
  store ptr %s, ptr @data_ptr
  %n = call ptr @PyUnicode_InternFromString(ptr @.numel)
  store ptr %n, ptr @numel
  %i = call ptr @PyUnicode_InternFromString(ptr @.is_cpu)
  store ptr %i, ptr @is_cpu
  %r = call i32 @pthread_key_create(ptr @hr_key, ptr @free)
  %l = call i32 @pthread_key_create(ptr @hr_launch, ptr null)
  %both = or i32 %r, %l
  ret i32 %both
}}

; At least %n bytes for the calling thread, aligned to 64, valid until the thread's next call.
define ptr @headrace_scratch(i64 %n) {{
  %key = load i32, ptr @hr_key
  %p = call ptr @pthread_getspecific(i32 %key)
  %null = icmp eq ptr %p, null
  br i1 %null, label %grow, label %check
check:
  %have = load i64, ptr %p
  %enough = icmp uge i64 %have, %n
  br i1 %enough, label %old, label %grow
old:
  %q = getelementptr i8, ptr %p, i64 64
  ret ptr %q
grow:
  call void @free(ptr %p)
  %x = add i64 %n, 4159
  %bytes = and i64 %x, -4096
  %fresh = call ptr @aligned_alloc(i64 4096, i64 %bytes)
  %none = icmp eq ptr %fresh, null
  br i1 %none, label %dead, label %fill
dead:
  call void @abort()
  unreachable
fill:
  %usable = sub i64 %bytes, 64
  store i64 %usable, ptr %fresh
  %s = call i32 @pthread_setspecific(i32 %key, ptr %fresh)
  %new = getelementptr i8, ptr %fresh, i64 64
  ret ptr %new
}}

; The calling thread works for this launch from now on: a worker whose kernel may fail says so first.
define void @headrace_enter(ptr %c) {{
  %key = load i32, ptr @hr_launch
  %s = call i32 @pthread_setspecific(i32 %key, ptr %c)
  %bad = icmp ne i32 %s, 0
  br i1 %bad, label %dead, label %out
dead:
  call void @abort()
  unreachable
out:
  ret void
}}

; A failed tt.assert: the first message of a launch wins and is raised when the launch is over.
define void @headrace_fail(ptr %message) {{
  %key = load i32, ptr @hr_launch
  %c = call ptr @pthread_getspecific(i32 %key)
  %place = getelementptr %context, ptr %c, i32 0, i32 7
  %x = cmpxchg ptr %place, ptr null, ptr %message acq_rel monotonic
  ret void
}}

; Gives the message of a failed tt.assert, or null.
define ptr @hr_run(ptr %worker, ptr %args, i32 %gx, i32 %gy, i32 %gz) {{
  %c = alloca %context, align 64
  %x = sext i32 %gx to i64
  %y = sext i32 %gy to i64
  %z = sext i32 %gz to i64
  %m0 = icmp sgt i32 %gx, 0
  %m1 = icmp sgt i32 %gy, 0
  %m2 = icmp sgt i32 %gz, 0
  %m01 = and i1 %m0, %m1
  %some = and i1 %m01, %m2
  br i1 %some, label %go, label %out
go:
  %xy = mul i64 %x, %y
  %total = mul i64 %xy, %z
  store ptr %args, ptr %c
  %pgx = getelementptr %context, ptr %c, i32 0, i32 1
  store i32 %gx, ptr %pgx
  %pgy = getelementptr %context, ptr %c, i32 0, i32 2
  store i32 %gy, ptr %pgy
  %pgz = getelementptr %context, ptr %c, i32 0, i32 3
  store i32 %gz, ptr %pgz
  %ptotal = getelementptr %context, ptr %c, i32 0, i32 5
  store i64 %total, ptr %ptotal
  %pchunk = getelementptr %context, ptr %c, i32 0, i32 6
  %pworker = getelementptr %context, ptr %c, i32 0, i32 8
  store ptr %worker, ptr %pworker
  %pchunks = getelementptr %context, ptr %c, i32 0, i32 9
  %ptaken = getelementptr %context, ptr %c, i32 0, i32 10
  %pfailure = getelementptr %context, ptr %c, i32 0, i32 7
  store ptr null, ptr %pfailure
  %one = icmp eq i64 %total, 1
  br i1 %one, label %serial, label %ask
ask:
  %forked = load i32, ptr @hr_forked
  %child = icmp ne i32 %forked, 0
  br i1 %child, label %serial, label %nested
nested:
  %inside = call i32 @omp_in_parallel()
  %isin = icmp ne i32 %inside, 0
  br i1 %isin, label %serial, label %count
count:
  %threads32 = call i32 @_ZN2at15get_num_threadsEv()
  %threads = sext i32 %threads32 to i64
  %n = call i64 @llvm.smin.i64(i64 %threads, i64 %total)
  %many = icmp sgt i64 %n, 1
  br i1 %many, label %parallel, label %serial
parallel:
  %parts = mul i64 %n, {CHUNKS_PER_THREAD}
  %share = udiv i64 %total, %parts
  %chunk = call i64 @llvm.umax.i64(i64 %share, i64 1)
  store i64 %chunk, ptr %pchunk
  %up = add i64 %total, %chunk
  %upto = sub i64 %up, 1
  %chunks = udiv i64 %upto, %chunk
  store i64 %chunks, ptr %pchunks
  %taken = alloca i8, i64 %chunks, align 64
  call void @llvm.memset.p0.i64(ptr %taken, i8 0, i64 %chunks, i1 false)
  store ptr %taken, ptr %ptaken
  %team = trunc i64 %n to i32
  call void @GOMP_parallel(ptr @hr_member, ptr %c, i32 %team, i32 0)
  br label %ended
serial:
  store i64 %total, ptr %pchunk
  store i64 1, ptr %pchunks
  %only = alloca i8, align 64
  store i8 0, ptr %only
  store ptr %only, ptr %ptaken
  call void %worker(ptr %c, i64 0)
  br label %ended
ended:
  %failure = load atomic ptr, ptr %pfailure acquire, align 8
  ret ptr %failure
out:
  ret ptr null
}}

; One thread of a launch: its worker begins with the chunks of its own share.
define internal void @hr_member(ptr %c) {{
  %t32 = call i32 @omp_get_thread_num()
  %n32 = call i32 @omp_get_num_threads()
  %t = sext i32 %t32 to i64
  %n = sext i32 %n32 to i64
  %pchunks = getelementptr %context, ptr %c, i32 0, i32 9
  %chunks = load i64, ptr %pchunks
  %part = mul i64 %chunks, %t
  %first = udiv i64 %part, %n
  %pworker = getelementptr %context, ptr %c, i32 0, i32 8
  %worker = load ptr, ptr %pworker
  call void %worker(ptr %c, i64 %first)
  ret void
}}
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
declare i64 @llvm.smin.i64(i64, i64)
declare i64 @llvm.umax.i64(i64, i64)
"""

_OPENMP = """
declare void @GOMP_parallel(ptr, ptr, i32, i32)
declare i32 @omp_in_parallel()
declare i32 @omp_get_thread_num()
declare i32 @omp_get_num_threads()
declare i32 @_ZN2at15get_num_threadsEv()
"""
_SERIAL = """
define internal void @GOMP_parallel(ptr %f, ptr %c, i32 %n, i32 %flags) {
  call void %f(ptr %c)
  ret void
}
define internal i32 @omp_in_parallel() {
  ret i32 0
}
define internal i32 @omp_get_thread_num() {
  ret i32 0
}
define internal i32 @omp_get_num_threads() {
  ret i32 1
}
define internal i32 @_ZN2at15get_num_threadsEv() {
  ret i32 1
}
"""


def text(parallel: bool) -> str:
    """IR of the runtime, with GOMP as imports or, without it, serial stand-ins."""
    return _TEXT.replace("PARALLEL", _OPENMP if parallel else _SERIAL) + call_ir.TEXT
