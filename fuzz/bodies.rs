//! What each fuzz target does with an input. The targets call these, and so
//! does `tests/fuzz.rs`, which needs no fuzzer.

use std::borrow::Cow;
use std::io;
use std::path::Path;

use rcompose::project::{self, LoadRequest, Rules, config, provenance};
use rcompose::stack::{
    FileKind, Files, clean_path, format_duration, parse_amount, parse_duration, parse_env_file, parse_mount,
    parse_port_range, parse_ports, parse_raw_env_file, split_words, substitute, variables,
};

/// No files but the one on standard input.
struct Nothing;

impl Files for Nothing {
    fn read(&self, _: &Path) -> io::Result<Vec<u8>> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn kind(&self, _: &Path) -> Option<FileKind> {
        None
    }
}

/// Any text as a stack file: loading must not panic, hang or grow without
/// bound, and what `config` prints of a stack must load as the same stack.
pub fn yaml(text: &str) {
    let request = |text: &str| LoadRequest {
        cwd: "/p".into(),
        files: vec!["-".into()],
        stdin: Some(text.to_owned()),
        ..LoadRequest::default()
    };
    let traced = Rules {
        trace: true,
        ..Rules::default()
    };
    if let Ok((model, _)) = project::load_model(&request(text), traced, &Nothing) {
        for leaf in provenance::leaves(&model) {
            let _ = provenance::find(&model, &leaf.path);
        }
    }
    let loose = Rules {
        consistency: false,
        all_resources: true,
        interpolate: false,
        normalize: false,
        resolve_paths: false,
        resolve_environment: false,
        trace: false,
    };
    if let Ok((model, _)) = project::load_model(&request(text), loose, &Nothing) {
        config::yaml_as(&model, false).expect("config is printed");
    }
    if let Ok(loaded) = project::load_any(&request(text), &Nothing) {
        let printed = config::yaml(&loaded.model).expect("config is printed");
        let again = project::load_any(&request(&printed), &Nothing)
            .unwrap_or_else(|failure| panic!("config is no stack: {failure}\n{printed}"));
        assert_eq!(again.project.services, loaded.project.services);
    }
}

/// Any text as a template.
pub fn interpolation(text: &str) {
    let lookup = |name: &str| (name.len().is_multiple_of(2)).then_some(Cow::Borrowed("v"));
    let _ = substitute(text, &lookup, &mut |_| {});
    let _ = variables(text);
    let escaped = text.replace('$', "$$");
    let same = substitute(&escaped, &lookup, &mut |_| {}).expect("escaped text is a template");
    assert_eq!(same, text);
    assert!(variables(&escaped).is_empty());
}

/// Any text as an environment file.
pub fn dotenv(text: &str) {
    let lookup = |name: &str| (name.len().is_multiple_of(2)).then(|| "v".to_owned());
    if let Ok(found) = parse_env_file(text, &lookup, &mut |_| {}) {
        assert!(found.keys().all(|name| !name.contains(char::is_whitespace)));
    }
    let _ = parse_raw_env_file(text, &lookup);
}

/// Any text as each of the short forms.
pub fn short_forms(text: &str) {
    let _ = parse_amount(text);
    let _ = parse_mount(text);
    let _ = parse_port_range(text);
    let _ = split_words(text);
    if let Ok(ports) = parse_ports(text) {
        assert!(!ports.is_empty() && ports.iter().all(|port| port.target > 0));
    }
    if let Ok(duration) = parse_duration(text) {
        assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
    }
    let clean = clean_path(text);
    assert_eq!(clean_path(&clean), clean);
}
