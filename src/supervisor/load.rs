//! A stack file to a project whose dependencies hold together: what loads here
//! can be planned.

use crate::graph::{Graph, GraphError};
use crate::project::{self, LoadFailure, LoadRequest, Loaded};
use crate::stack::{Code, Diagnostic, DiskFiles, Origin};

/// Loads a project from disk and checks its dependencies.
///
/// # Errors
/// [`LoadFailure`] with every problem, each with its place in the stack file.
pub fn load(request: &LoadRequest) -> Result<Loaded, LoadFailure> {
    let loaded = project::load(request, &DiskFiles)?;
    match Graph::new(&loaded.project) {
        Ok(_) => Ok(loaded),
        Err(error) => Err(LoadFailure {
            diagnostics: vec![diagnose(&error, request)],
            inputs: loaded.project.inputs,
        }),
    }
}

/// A problem of the graph as one of the stack file, shown at its first place.
fn diagnose(error: &GraphError, request: &LoadRequest) -> Diagnostic {
    let origin = error.origins().first().map(|origin| (*origin).clone());
    let source_line = origin.as_ref().and_then(|origin| line_of(origin, request));
    let mut diagnostic = Diagnostic::error(Code::Conflict, error.to_string());
    diagnostic.origin = origin;
    diagnostic.source_line = source_line;
    let GraphError::Cycle { path, origins } = error else {
        return diagnostic;
    };
    let steps: Vec<String> = path
        .iter()
        .zip(path.iter().skip(1))
        .zip(origins)
        .map(|((from, to), origin)| match origin {
            Some(origin) => format!("{from} -> {to} ({origin})"),
            None => format!("{from} -> {to}"),
        })
        .collect();
    diagnostic.hint(format!("take one of these away: {}", steps.join(", ")))
}

/// The line that an origin points at.
fn line_of(origin: &Origin, request: &LoadRequest) -> Option<String> {
    let text = match &request.stdin {
        Some(text) if origin.file.as_os_str() == "-" => text.clone(),
        _ => std::fs::read_to_string(request.cwd.join(&origin.file)).ok()?,
    };
    let before = origin.line.checked_sub(1)?;
    text.lines().nth(before as usize).map(str::to_owned)
}
