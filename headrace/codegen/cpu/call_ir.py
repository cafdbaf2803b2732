"""LLVM IR of ``hr_call``: a launch with Python's objects for arguments, in CPython's calling convention.

Each argument is read by its letter (see :mod:`headrace.codegen.cpu.runtime`) into 64 bits of an array, the
interpreter's lock is released, and ``hr_run`` of :mod:`.runtime_ir` runs the grid.
"""

from __future__ import annotations

MAX_ARGS = 256

TEXT = f"""
@_Py_NoneStruct = external global i8
@PyExc_TypeError = external global ptr
@PyExc_ValueError = external global ptr
@PyExc_OverflowError = external global ptr
@_Py_FalseStruct = external global i8
@PyExc_RuntimeError = external global ptr
@.device = internal constant [52 x i8] c"argument %zd is a tensor that is not in main memory\\00"
@.empty = internal constant [61 x i8] c"argument %zd is a tensor without memory (of the meta device)\\00"
@.wide = internal constant [56 x i8] c"argument %zd does not fit the %zd bits of its parameter\\00"
@.grid = internal constant [61 x i8] c"dimension %zd of the grid is %lld; at most 2147483647 can be\\00"
@.programs = internal constant [62 x i8] c"a grid of %lld x %lld x %lld programs; fewer than 2^63 can be\\00"
@.count = internal constant [54 x i8] c"the compiled kernel takes %zd arguments with the grid\\00"

declare ptr @PyEval_SaveThread()
declare void @PyEval_RestoreThread(ptr)
declare i64 @PyLong_AsUnsignedLongLongMask(ptr)
declare i64 @PyLong_AsLongLong(ptr)
declare ptr @PyObject_GetAttr(ptr, ptr)
declare void @PyErr_Clear()
declare double @PyFloat_AsDouble(ptr)
declare ptr @PyErr_Occurred()
declare ptr @PyErr_Format(ptr, ptr, ...)
declare void @PyErr_SetString(ptr, ptr)
declare ptr @PyBytes_AsString(ptr)
declare ptr @PyObject_VectorcallMethod(ptr, ptr, i64, ptr)
declare i64 @PyType_GetFlags(ptr)
declare ptr @PyObject_Type(ptr)
declare void @Py_IncRef(ptr)
declare void @Py_DecRef(ptr)
declare i64 @llvm.smax.i64(i64, i64)
declare {{ i64, i1 }} @llvm.smul.with.overflow.i64(i64, i64)
declare double @llvm.fabs.f64(double)

; f64 to f32, rounded to odd: rounded again, to 16 bits, it is as if it had been rounded once.
define internal float @odd(double %d) {{
  %near = fptrunc double %d to float
  %back = fpext float %near to double
  %size = call double @llvm.fabs.f64(double %d)
  %rounded = call double @llvm.fabs.f64(double %back)
  %up = fcmp ogt double %rounded, %size
  %one = zext i1 %up to i32
  %bits = bitcast float %near to i32
  %below = sub i32 %bits, %one
  %inexact = fcmp one double %back, %d
  %sticky = zext i1 %inexact to i32
  %kept = or i32 %below, %sticky
  %r = bitcast i32 %kept to float
  ret float %r
}}

; Value of an object passed for a pointer, as argument %k; -1 with a Python error set where it has none.
define internal i64 @pointer(ptr %o, i64 %k) {{
  %self = alloca ptr
  %isnone = icmp eq ptr %o, @_Py_NoneStruct
  br i1 %isnone, label %null, label %kind
null:
  ret i64 0
kind:
  %type = call ptr @PyObject_Type(ptr %o)
  %flags = call i64 @PyType_GetFlags(ptr %type)
  call void @Py_DecRef(ptr %type)
  %long = and i64 %flags, 16777216
  %islong = icmp ne i64 %long, 0
  br i1 %islong, label %number, label %tensor
number:
  %v = call i64 @PyLong_AsUnsignedLongLongMask(ptr %o)
  ret i64 %v
tensor:
  %name = load ptr, ptr @data_ptr
  store ptr %o, ptr %self
  %r = call ptr @PyObject_VectorcallMethod(ptr %name, ptr %self, i64 1, ptr null)
  %failed = icmp eq ptr %r, null
  br i1 %failed, label %bad, label %good
bad:
  ret i64 -1
good:
  %w = call i64 @PyLong_AsUnsignedLongLongMask(ptr %r)
  call void @Py_DecRef(ptr %r)
  %nowhere = icmp eq i64 %w, 0
  br i1 %nowhere, label %count, label %where
count:
  %numel = load ptr, ptr @numel
  %c = call ptr @PyObject_VectorcallMethod(ptr %numel, ptr %self, i64 1, ptr null)
  %uncounted = icmp eq ptr %c, null
  br i1 %uncounted, label %unknown, label %counted
counted:
  %elements = call i64 @PyLong_AsUnsignedLongLongMask(ptr %c)
  call void @Py_DecRef(ptr %c)
  %some = icmp ne i64 %elements, 0
  br i1 %some, label %empty, label %fine
where:
  %attribute = load ptr, ptr @is_cpu
  %cpu = call ptr @PyObject_GetAttr(ptr %o, ptr %attribute)
  %unsaid = icmp eq ptr %cpu, null
  br i1 %unsaid, label %unknown, label %said
said:
  call void @Py_DecRef(ptr %cpu)
  %elsewhere = icmp eq ptr %cpu, @_Py_FalseStruct
  br i1 %elsewhere, label %far, label %fine
unknown:
  call void @PyErr_Clear()
  br label %fine
fine:
  ret i64 %w
empty:
  br label %raise
far:
  br label %raise
raise:
  %text = phi ptr [ @.empty, %empty ], [ @.device, %far ]
  %kind0 = load ptr, ptr @PyExc_ValueError
  %e = call ptr (ptr, ptr, ...) @PyErr_Format(ptr %kind0, ptr %text, i64 %k)
  ret i64 -1
}}

; f(gx, gy, gz, *args); the descriptor bytes hold {{ worker, count, letters }}.
define ptr @hr_call(ptr %self, ptr %argv, i64 %n) {{
entry:
  %slots = alloca [{MAX_ARGS} x i64], align 64
  %grid = alloca [3 x i64]
  %d = call ptr @PyBytes_AsString(ptr %self)
  %worker = load ptr, ptr %d, align 1
  %pcount = getelementptr i8, ptr %d, i64 8
  %count = load i64, ptr %pcount, align 1
  %letters = getelementptr i8, ptr %d, i64 16
  %want = add i64 %count, 3
  %right = icmp eq i64 %n, %want
  br i1 %right, label %gridloop, label %miscount
miscount:
  %te = load ptr, ptr @PyExc_TypeError
  %f = call ptr (ptr, ptr, ...) @PyErr_Format(ptr %te, ptr @.count, i64 %want)
  ret ptr null
gridloop:
  %g = phi i64 [ 0, %entry ], [ %g1, %gridnext ]
  %pg = getelementptr ptr, ptr %argv, i64 %g
  %og = load ptr, ptr %pg
  %vg = call i64 @PyLong_AsLongLong(ptr %og)
  %odd = icmp slt i64 %vg, 0
  br i1 %odd, label %gridcheck, label %gridsize
gridcheck:
  %e0 = call ptr @PyErr_Occurred()
  %bad0 = icmp ne ptr %e0, null
  br i1 %bad0, label %error, label %gridnext
gridsize:
  %large = icmp sgt i64 %vg, 2147483647
  br i1 %large, label %gridlarge, label %gridnext
gridlarge:
  %ve = load ptr, ptr @PyExc_ValueError
  %f2 = call ptr (ptr, ptr, ...) @PyErr_Format(ptr %ve, ptr @.grid, i64 %g, i64 %vg)
  ret ptr null
gridnext:
  %sg = getelementptr i64, ptr %grid, i64 %g
  %vpos = call i64 @llvm.smax.i64(i64 %vg, i64 0)
  store i64 %vpos, ptr %sg
  %g1 = add i64 %g, 1
  %gmore = icmp ult i64 %g1, 3
  br i1 %gmore, label %gridloop, label %args
args:
  %none = icmp eq i64 %count, 0
  br i1 %none, label %run, label %loop
loop:
  %k = phi i64 [ 0, %args ], [ %k1, %next ]
  %s = phi i64 [ 0, %args ], [ %s1, %next ]
  %pl = getelementptr i8, ptr %letters, i64 %k
  %l = load i8, ptr %pl
  %k3 = add i64 %k, 3
  %pa = getelementptr ptr, ptr %argv, i64 %k3
  %o = load ptr, ptr %pa
  switch i8 %l, label %skip [
    i8 112, label %pointer
    i8 105, label %integer
    i8 119, label %word
    i8 115, label %short
    i8 99, label %byte
    i8 102, label %float
    i8 100, label %double
    i8 104, label %half
    i8 98, label %brain
  ]
skip:
  br label %next
pointer:
  %vp = call i64 @pointer(ptr %o, i64 %k)
  br label %check
integer:
  %vi = call i64 @PyLong_AsUnsignedLongLongMask(ptr %o)
  br label %check
word:
  br label %narrow
short:
  br label %narrow
byte:
  br label %narrow
narrow:
  %bits = phi i64 [ 32, %word ], [ 16, %short ], [ 8, %byte ]
  %vn = call i64 @PyLong_AsLongLong(ptr %o)
  %above = ashr i64 %vn, %bits
  %sign = sub i64 %bits, 1
  %signs = ashr i64 %vn, %sign
  %unsigned = icmp eq i64 %above, 0
  %negative = icmp eq i64 %signs, -1
  %fits = or i1 %unsigned, %negative
  br i1 %fits, label %check, label %wide
wide:
  %e1 = call ptr @PyErr_Occurred()
  %already = icmp ne ptr %e1, null
  br i1 %already, label %error, label %overflow
overflow:
  %oe = load ptr, ptr @PyExc_OverflowError
  %f3 = call ptr (ptr, ptr, ...) @PyErr_Format(ptr %oe, ptr @.wide, i64 %k, i64 %bits)
  ret ptr null
float:
  %df = call double @PyFloat_AsDouble(ptr %o)
  %ff = fptrunc double %df to float
  %fb = bitcast float %ff to i32
  %fz = zext i32 %fb to i64
  %fneg = fcmp oeq double %df, -1.0
  %vf = select i1 %fneg, i64 -1, i64 %fz
  br label %fcheck
double:
  %dd = call double @PyFloat_AsDouble(ptr %o)
  %db = bitcast double %dd to i64
  br label %fcheck
half:
  %dh = call double @PyFloat_AsDouble(ptr %o)
  %sh = call float @odd(double %dh)
  %hh = fptrunc float %sh to half
  %hb = bitcast half %hh to i16
  %hz = zext i16 %hb to i64
  br label %fcheck
brain:
  %dbf = call double @PyFloat_AsDouble(ptr %o)
  %sb = call float @odd(double %dbf)
  %sbi = bitcast float %sb to i32
  %lsb0 = lshr i32 %sbi, 16
  %lsb = and i32 %lsb0, 1
  %bias = add i32 %lsb, 32767
  %rounded = add i32 %sbi, %bias
  %isnan = fcmp uno float %sb, %sb
  %quiet = or i32 %sbi, 4194304
  %kept = select i1 %isnan, i32 %quiet, i32 %rounded
  %top = lshr i32 %kept, 16
  %bz = zext i32 %top to i64
  br label %fcheck
fcheck:
  %dall = phi double [ %df, %float ], [ %dd, %double ], [ %dh, %half ], [ %dbf, %brain ]
  %ball = phi i64 [ %fz, %float ], [ %db, %double ], [ %hz, %half ], [ %bz, %brain ]
  %dneg = fcmp oeq double %dall, -1.0
  br i1 %dneg, label %occurred, label %place
check:
  %vall = phi i64 [ %vp, %pointer ], [ %vi, %integer ], [ %vn, %narrow ]
  %vneg = icmp eq i64 %vall, -1
  br i1 %vneg, label %occurred, label %place
occurred:
  %vkeep = phi i64 [ %vall, %check ], [ %ball, %fcheck ]
  %e = call ptr @PyErr_Occurred()
  %isbad = icmp ne ptr %e, null
  br i1 %isbad, label %error, label %place
place:
  %v = phi i64 [ %vall, %check ], [ %ball, %fcheck ], [ %vkeep, %occurred ]
  %ps = getelementptr i64, ptr %slots, i64 %s
  store i64 %v, ptr %ps
  %snext = add i64 %s, 1
  br label %next
next:
  %s1 = phi i64 [ %s, %skip ], [ %snext, %place ]
  %k1 = add i64 %k, 1
  %more = icmp ult i64 %k1, %count
  br i1 %more, label %loop, label %run
run:
  %g0 = load i64, ptr %grid
  %gx = trunc i64 %g0 to i32
  %pg1 = getelementptr i64, ptr %grid, i64 1
  %gy64 = load i64, ptr %pg1
  %gy = trunc i64 %gy64 to i32
  %pg2 = getelementptr i64, ptr %grid, i64 2
  %gz64 = load i64, ptr %pg2
  %gz = trunc i64 %gz64 to i32
  %gxy = mul i64 %g0, %gy64
  %programs = call {{ i64, i1 }} @llvm.smul.with.overflow.i64(i64 %gxy, i64 %gz64)
  %toomany = extractvalue {{ i64, i1 }} %programs, 1
  br i1 %toomany, label %gridmany, label %launch
gridmany:
  %ve1 = load ptr, ptr @PyExc_ValueError
  %f4 = call ptr (ptr, ptr, ...) @PyErr_Format(ptr %ve1, ptr @.programs, i64 %g0, i64 %gy64, i64 %gz64)
  ret ptr null
launch:
  %state = call ptr @PyEval_SaveThread()
  %failure = call ptr @hr_run(ptr %worker, ptr %slots, i32 %gx, i32 %gy, i32 %gz)
  call void @PyEval_RestoreThread(ptr %state)
  %ok = icmp eq ptr %failure, null
  br i1 %ok, label %done, label %failed
failed:
  %re = load ptr, ptr @PyExc_RuntimeError
  call void @PyErr_SetString(ptr %re, ptr %failure)
  ret ptr null
error:
  ret ptr null
done:
  call void @Py_IncRef(ptr @_Py_NoneStruct)
  ret ptr @_Py_NoneStruct
}}
"""
