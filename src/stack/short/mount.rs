//! Mounts: `[SOURCE:]TARGET[:OPTION,…]`.

/// A mount of the short form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShortMount {
    /// A path (see [`ShortMount::is_bind`]) or a volume's key; none for an
    /// anonymous volume.
    pub source: Option<String>,
    /// Path inside the container, cleaned.
    pub target: String,
    /// `ro`.
    pub read_only: bool,
    /// `nocopy`.
    pub nocopy: bool,
    /// `rprivate`, `shared`, …
    pub propagation: Option<String>,
    /// `z` or `Z`.
    pub selinux: Option<String>,
}

impl ShortMount {
    /// Whether the source is a path of the host.
    pub fn is_bind(&self) -> bool {
        self.source
            .as_deref()
            .is_some_and(|source| source.starts_with(['.', '/', '~']))
    }
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
    /// An option that means nothing, or nothing here.
    #[error("invalid spec: {0}: unknown option {1:?}")]
    Option(String, String),
}

/// A mount.
///
/// # Errors
/// [`MountError`], as said there. (docker compose ignores options it does not know.)
pub fn parse_mount(text: &str) -> Result<ShortMount, MountError> {
    if text.is_empty() {
        return Err(MountError::Empty);
    }
    let parts: Vec<&str> = text.split(':').collect();
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
        target: clean_path(target),
        ..ShortMount::default()
    };
    let is_bind = mount.is_bind();
    for option in options.into_iter().flat_map(|options| options.split(',')) {
        match option {
            "ro" => mount.read_only = true,
            "rw" => mount.read_only = false,
            // Of no effect on Linux, where there is one file system cache.
            "cached" | "delegated" | "consistent" | "default" => {}
            "nocopy" | "volume-nocopy" if !is_bind => mount.nocopy = true,
            "rprivate" | "private" | "rshared" | "shared" | "rslave" | "slave" if is_bind => {
                mount.propagation = Some(option.to_owned());
            }
            "z" | "Z" => mount.selinux = Some(option.to_owned()),
            _ => return Err(MountError::Option(text.to_owned(), option.to_owned())),
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
        assert_eq!(mount.target, "/var/lib/x");
        assert!(mount.read_only && mount.nocopy && !mount.is_bind());
        let mount = parse_mount("./x:/y:rslave,Z,cached").unwrap();
        assert!(mount.is_bind() && !mount.read_only);
        assert_eq!(mount.propagation.as_deref(), Some("rslave"));
        assert_eq!(mount.selinux.as_deref(), Some("Z"));
        let mount = parse_mount("/y").unwrap();
        assert_eq!((mount.source.as_deref(), mount.is_bind()), (None, false));
        for source in ["~/x:/y", "/x:/y", "../x:/y"] {
            assert!(parse_mount(source).unwrap().is_bind());
        }
        for (text, error) in [
            ("", "invalid empty volume spec"),
            (":/x", "invalid spec: :/x: empty section between colons"),
            ("a:b:c:d", "invalid spec: a:b:c:d: too many colons"),
            ("a:/b:rx", "invalid spec: a:/b:rx: unknown option \"rx\""),
            (
                "a:/b:shared",
                "invalid spec: a:/b:shared: unknown option \"shared\"",
            ),
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
