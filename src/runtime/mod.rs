//! stub
#![allow(missing_docs, dead_code)]
use std::collections::BTreeMap; use std::path::{Path,PathBuf}; use std::os::fd::*; use serde::*;
pub use self::request::*; mod request { use super::*; 
#[derive(Clone,Debug)] pub struct RunRequest { pub id:String, pub spec: oci_spec::runtime::Spec, pub rootfs: Rootfs, pub populate: Vec<Populate>, pub confined: BTreeMap<PathBuf,PathBuf>, pub user: Option<String>, pub group_add: Vec<String>, pub seccomp: SeccompPolicy, pub cgroup: CgroupRequest, pub init: bool, pub stdin_open: bool, pub log: PathBuf, pub exit_record: PathBuf, pub running_record: PathBuf, pub revive: Option<Revive> }
#[derive(Clone,Debug)] pub enum Rootfs { Overlay{layers:Vec<PathBuf>,upper:PathBuf,work:PathBuf,mountpoint:PathBuf,readonly:bool} }
#[derive(Clone,Debug)] pub struct Populate { pub destination:PathBuf,pub source:PathBuf,pub marker:PathBuf }
#[derive(Clone,Debug)] pub struct CgroupRequest { pub path:PathBuf, pub strict: bool }
#[derive(Clone,Debug)] pub struct Revive { pub command: Vec<String>, pub lock: PathBuf }
#[derive(Clone,Debug)] pub enum SeccompPolicy { Default }
#[derive(Clone,Debug,Default)] pub struct Settings { pub args:Vec<String>,pub env:Vec<String>,pub cwd:String,pub hostname:Option<String>,pub domainname:Option<String>,pub cap_add:Vec<String>,pub cap_drop:Vec<String>,pub privileged:bool,pub tty:bool,pub ulimits:BTreeMap<String,(i64,i64)>,pub sysctls:BTreeMap<String,String>,pub resources:Limits,pub security_opt:Vec<String>,pub mounts:Vec<oci_spec::runtime::Mount>,pub shm_size:Option<u64>,pub host_network:bool }
#[derive(Clone,Debug,Default)] pub struct Limits { pub memory:Option<i64>,pub memory_reservation:Option<i64>,pub memory_swap:Option<i64>,pub cpus_milli:Option<u64>,pub cpu_shares:Option<u64>,pub cpuset:Option<String>,pub pids:Option<i64> }
}
#[derive(Debug, thiserror::Error)] #[error("x")] pub struct RuntimeError; 
#[derive(Debug, thiserror::Error)] #[error("x")] pub struct SpecError; impl From<SpecError> for RuntimeError { fn from(_:SpecError)->Self{RuntimeError} }
impl RuntimeError { pub fn kind(&self)->FailureKind{FailureKind} } #[derive(Debug,Clone,Copy)] pub struct FailureKind; impl FailureKind { pub fn exit_code(self)->i32{1} }
pub fn bind_mount(_:&Path,_:&str,_:&[&str])->oci_spec::runtime::Mount{Default::default()}
pub fn tmpfs_mount(_:&str,_:&[&str])->oci_spec::runtime::Mount{Default::default()}
pub fn default_spec(_:&Settings)->Result<(oci_spec::runtime::Spec,SeccompPolicy),SpecError>{Err(SpecError)}
#[derive(Clone,Debug,Serialize,Deserialize)] pub struct RunningRecord { pub init: Proc, pub started_at:u64 }
#[derive(Clone,Debug,Serialize,Deserialize)] pub struct Proc { pub pid:u32 }
#[derive(Clone,Debug,Serialize,Deserialize)] pub struct ExitRecord { pub code:i32, pub started_at:u64, pub finished_at:u64 }
pub struct Alive { pub init: bool }
pub fn probe(_:&RunningRecord)->Alive{Alive{init:false}}
pub struct Begun { pub running: RunningRecord, pub monitor: OwnedFd, pub warnings: Vec<String> }
pub fn start(_:&RunRequest,_:Option<BorrowedFd<'_>>,_:&[(String,BorrowedFd<'_>)],_:Option<OwnedFd>)->Result<Begun,RuntimeError>{Err(RuntimeError)}
pub fn open_monitor(_:&RunningRecord)->Result<Option<OwnedFd>,RuntimeError>{Ok(None)}
pub fn reap_lost(_:&RunningRecord,_:&Path)->Result<(),RuntimeError>{Ok(())}
pub fn cleanup(_:&Path,_:&Path)->Result<(),RuntimeError>{Ok(())}
pub fn signal(_:&RunningRecord,_:i32)->Result<(),RuntimeError>{Ok(())}
pub fn kill_all(_:&RunningRecord)->Result<(),RuntimeError>{Ok(())}
pub fn retrieve_kept(_:&RunningRecord,_:&str)->Result<OwnedFd,RuntimeError>{Err(RuntimeError)}
#[derive(Clone,Debug)] pub struct ExecRequest { pub args: Vec<String>, pub running: RunningRecord } impl ExecRequest { pub fn new(r:RunningRecord)->Self{Self{args:vec![],running:r}} }
pub async fn exec_quietly(_:&ExecRequest,_:std::time::Duration,_:u64)->bool{false}
