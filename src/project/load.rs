//! TEMPORARY stand-in until the loader is merged.
#![allow(missing_docs)]
use super::Project;
use std::collections::BTreeMap;
use std::path::PathBuf;
use serde::{Serialize, Deserialize};
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct LoadRequest { pub cwd: PathBuf, pub files: Vec<PathBuf>, pub stdin: Option<String>, pub project_directory: Option<PathBuf>, pub project_name: Option<String>, pub env_files: Vec<PathBuf>, pub profiles: Vec<String>, pub environment: BTreeMap<String,String> }
#[derive(Debug)]
pub struct Loaded { pub project: Project, pub warnings: Vec<Diagnostic> }
#[derive(Debug)]
pub struct LoadFailure { pub diagnostics: Vec<Diagnostic>, pub inputs: Vec<PathBuf> }
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Diagnostic { pub message: String }
impl Diagnostic { pub fn render(&self, _c: bool) -> String { self.message.clone() } }
impl std::fmt::Display for Diagnostic { fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str(&self.message) } }
pub fn load(_: &LoadRequest) -> Result<Loaded, LoadFailure> { Err(LoadFailure { diagnostics: vec![], inputs: vec![] }) }
