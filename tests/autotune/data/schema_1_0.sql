PRAGMA application_id=1212437059;
PRAGMA journal_mode=WAL;
BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('v1.0');
CREATE TABLE meta (
	"key" VARCHAR NOT NULL, 
	value VARCHAR NOT NULL, 
	PRIMARY KEY ("key")
);
INSERT INTO "meta" VALUES('schema_version','1.0');
CREATE TABLE observations (
	id VARCHAR(64) NOT NULL, 
	op VARCHAR(64) NOT NULL, 
	spec VARCHAR NOT NULL, 
	sizes VARCHAR NOT NULL, 
	bucket VARCHAR NOT NULL, 
	numerics VARCHAR NOT NULL, 
	dataflow VARCHAR NOT NULL, 
	schedule VARCHAR NOT NULL, 
	template_digest VARCHAR NOT NULL, 
	hard VARCHAR NOT NULL, 
	device VARCHAR NOT NULL, 
	versions VARCHAR NOT NULL, 
	policy VARCHAR NOT NULL, 
	race VARCHAR NOT NULL, 
	baseline INTEGER NOT NULL, 
	verdict VARCHAR(16) NOT NULL, 
	cause VARCHAR NOT NULL, 
	median FLOAT, 
	low FLOAT, 
	high FLOAT, 
	samples VARCHAR NOT NULL, 
	evidence VARCHAR NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "observations" VALUES('cf0004e0bb3298839f492a876048821abfdaef28a9b55f567bfd4fc3b4907ae4','349f337b0eea21de3b5f924b794acd0c055955bef863d15d69bdf1a3ed75df96','Gemm{x=f32}','4','4','n','gemv','gemv{block=8}','d0','cpu/x86_64/avx512f','Some CPU/units=2/memory=16GiB','torch=2.13.0 triton=3.9.0','screen/warm/warmup=2/rounds=9/v1','',1,'ok','',0.0001004,1.00079999999999990473e-04,0.00010072,'[0.0001, 0.0001001, 0.00010020000000000001, 0.0001003, 0.0001004, 0.00010049999999999999, 0.0001006, 0.0001007, 0.00010080000000000001]','{"seeds": [1, 2, 3], "reference": "float64", "repeats": 10, "max_error": 1e-06, "bound": 0.0001}');
INSERT INTO "observations" VALUES('00f7a4b52f6ce8cf2abae72bb67b875a84867c71047b716a9b9e6deb5557f7ab','349f337b0eea21de3b5f924b794acd0c055955bef863d15d69bdf1a3ed75df96','Gemm{x=f32}','4','4','n','tiled','tiled{block=16}','d0','cpu/x86_64/avx512f','Some CPU/units=2/memory=16GiB','torch=2.13.0 triton=3.9.0','screen/warm/warmup=2/rounds=9/v1','',0,'wrong','max error 3 > 1',NULL,NULL,NULL,'[]','');
CREATE INDEX observations_by_op ON observations (op, hard);
COMMIT;
