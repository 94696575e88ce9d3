use super::{context::Context,arguments::Logs,failure::Outcome}; pub(super) fn logs(_:&Context,_:&Logs)->Outcome{Ok(std::process::ExitCode::SUCCESS)}
