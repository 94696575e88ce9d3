//! Mounts: `[SOURCE:]TARGET[:OPTION,…]`.

/// A mount of the short form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShortMount {
    /// A path (see [`ShortMount::is_bind`]) or a volume's key; none for an
    /// anonymous volume.
    pub source: Option<String>,
    /// Path inside the container, as written.
    pub target: String,
    /// `ro`.
    pub read_only: bool,
    /// `nocopy`.
    pub nocopy: bool,
    /// `rprivate`, `shared`, …
    pub propagation: Option<String>,
    /// `z` or `Z`.
    pub selinux: Option<String>,
    /// Options that mean nothing.
    pub unknown: Vec<String>,
}

impl ShortMount {
    /// Whether the source is a path of the host.
    pub fn is_bind(&self) -> bool {
        self.source
            .as_deref()
            .is_some_and(|source| source.starts_with(['.', '/', '~', '\\']) || has_drive(source))
    }
}

/// Whether a text begins with a drive of Windows: one letter and a colon.
fn has_drive(text: &str) -> bool {
    let mut characters = text.chars();
    characters.next().is_some_and(char::is_alphabetic) && characters.next() == Some(':')
}

/// Whether a path is an absolute one of Windows.
pub(crate) fn is_windows_path(path: &str) -> bool {
    path.starts_with("\\\\")
        || has_drive(path) && path.as_bytes().get(2).is_some_and(|byte| b"/\\".contains(byte))
}

/// A text that is no mount.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MountError {
    /// Nothing.
    #[error("invalid empty volume spec")]
    Empty,
    /// Nothing between two colons.
    #[error("invalid spec: {0}: empty section between colons")]
    EmptySection(String),
    /// More than three parts.
    #[error("invalid spec: {0}: too many colons")]
    TooManyColons(String),
}

/// The parts between the colons; the colon behind a lone letter is a drive's.
fn parts(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text;
    loop {
        let from = if has_drive(rest) {
            rest.find(':').map_or(0, |colon| colon + 1)
        } else {
            0
        };
        match rest[from..].find(':') {
            Some(colon) => {
                parts.push(&rest[..from + colon]);
                rest = &rest[from + colon + 1..];
            }
            None => {
                parts.push(rest);
                return parts;
            }
        }
    }
}

/// A mount.
///
/// As docker compose reads it, a lone letter before a colon is a drive of
/// Windows and no volume, and options that it does not know are left out.
///
/// # Errors
/// [`MountError`], as said there.
pub fn parse_mount(text: &str) -> Result<ShortMount, MountError> {
    if text.is_empty() {
        return Err(MountError::Empty);
    }
    let parts = parts(text);
    if parts.iter().any(|part| part.is_empty()) {
        return Err(MountError::EmptySection(text.to_owned()));
    }
    let (source, target, options) = match parts.as_slice() {
        [target] => (None, *target, None),
        [source, target] => (Some(*source), *target, None),
        [source, target, options] => (Some(*source), *target, Some(*options)),
        _ => return Err(MountError::TooManyColons(text.to_owned())),
    };
    let mut mount = ShortMount {
        source: source.map(str::to_owned),
        target: target.to_owned(),
        ..ShortMount::default()
    };
    for option in options.into_iter().flat_map(|options| options.split(',')) {
        match option {
            "ro" => mount.read_only = true,
            "rw" => mount.read_only = false,
            // Of no effect on Linux, where there is one file system cache.
            "cached" | "delegated" | "consistent" | "default" => {}
            "nocopy" => mount.nocopy = true,
            "rprivate" | "private" | "rshared" | "shared" | "rslave" | "slave" => {
                mount.propagation = Some(option.to_owned());
            }
            "z" | "Z" => mount.selinux = Some(option.to_owned()),
            _ => mount.unknown.push(option.to_owned()),
        }
    }
    Ok(mount)
}

/// A path without `.`, `..`, doubled and trailing slashes, by its text alone.
pub fn clean_path(path: &str) -> String {
    if is_clean(path) {
        return path.to_owned();
    }
    let absolute = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => match parts.last() {
                Some(&"..") => parts.push(part),
                Some(_) => {
                    parts.pop();
                }
                None if absolute => {}
                None => parts.push(part),
            },
            _ => parts.push(part),
        }
    }
    let joined = parts.join("/");
    match (absolute, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}

/// Whether an absolute path has nothing to take out.
pub fn is_clean(path: &str) -> bool {
    let Some(inside) = path.strip_prefix('/') else {
        return false;
    };
    let parts = |part: &str| !matches!(part, "" | "." | "..");
    inside.is_empty() || inside.split('/').all(parts)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn forms() {
        let mount = parse_mount("data:/var//lib/x/:ro,nocopy").unwrap();
        assert_eq!(mount.source.as_deref(), Some("data"));
        assert_eq!(mount.target, "/var//lib/x/");
        assert!(mount.read_only && mount.nocopy && !mount.is_bind());
        let mount = parse_mount("./x:/y:rslave,Z,cached,rx").unwrap();
        assert!(mount.is_bind() && !mount.read_only);
        assert_eq!(mount.propagation.as_deref(), Some("rslave"));
        assert_eq!(mount.selinux.as_deref(), Some("Z"));
        assert_eq!(mount.unknown, ["rx"]);
        let mount = parse_mount("/y").unwrap();
        assert_eq!((mount.source.as_deref(), mount.is_bind()), (None, false));
        for source in ["~/x:/y", "/x:/y", "../x:/y", "C:/x:/y", r"C:\x:/y"] {
            assert!(parse_mount(source).unwrap().is_bind(), "{source}");
        }
        let drives = parse_mount("a:b:c:d").unwrap();
        assert_eq!(
            (drives.source.as_deref(), drives.target.as_str()),
            (Some("a:b"), "c:d")
        );
        assert!(drives.is_bind());
        let lone = parse_mount("v:/data").unwrap();
        assert_eq!((lone.source, lone.target.as_str()), (None, "v:/data"));
        for (text, error) in [
            ("", "invalid empty volume spec"),
            (":/x", "invalid spec: :/x: empty section between colons"),
            ("aa:bb:cc:dd", "invalid spec: aa:bb:cc:dd: too many colons"),
        ] {
            assert_eq!(parse_mount(text).unwrap_err().to_string(), error);
        }
    }

    #[test]
    fn paths() {
        for (path, clean) in [
            ("/", "/"),
            ("//a/./b/../c/", "/a/c"),
            ("/../a", "/a"),
            ("a/../..", ".."),
            ("", "."),
            ("a/b", "a/b"),
        ] {
            assert_eq!(clean_path(path), clean);
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(text in any::<String>()) {
            let _ = parse_mount(&text);
        }

        #[test]
        fn cleaning_twice_is_cleaning_once(path in "[a./]{0,20}") {
            let once = clean_path(&path);
            prop_assert_eq!(clean_path(&once), once);
        }
    }
}
