//! Where the files of an archive are, without unpacking it.

use std::collections::HashMap;
use std::io::Read;

use super::UnpackError;
use super::tar::{Kind, Reader};
use super::tree::normalise;

/// Most files of an archive of images.
const MEMBERS_LIMIT: usize = 20_000;

/// A named thing in an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::image) enum Member {
    /// A file: where its data starts, and how long it is.
    File { offset: u64, length: u64 },
    /// A hard or symbolic link; the target is the name of another member.
    Link { target: Vec<u8> },
}

/// The files and links of a decompressed archive by their normalised names. A
/// later one of the same name replaces an earlier one. Links that lead out of
/// the archive, and sparse files, are left out.
pub(in crate::image) fn members(archive: impl Read) -> Result<HashMap<Vec<u8>, Member>, UnpackError> {
    let mut reader = Reader::new(archive);
    let mut members = HashMap::new();
    while let Some(entry) = reader.next_entry()? {
        let path = normalise(&entry.path)?;
        let member = match entry.kind {
            Kind::File if entry.sparse.is_none() => Some(Member::File {
                offset: reader.position(),
                length: reader.remaining(),
            }),
            Kind::HardLink => normalise(&entry.link).ok().map(|target| Member::Link { target }),
            Kind::Symlink => resolve(&path, &entry.link).map(|target| Member::Link { target }),
            _ => None,
        };
        match member {
            Some(member) => members.insert(path, member),
            None => members.remove(&path),
        };
        if members.len() > MEMBERS_LIMIT {
            return Err(UnpackError::Limit {
                what: "entries",
                limit: MEMBERS_LIMIT as u64,
            });
        }
    }
    Ok(members)
}

/// The target of a symbolic link as a name of the archive.
fn resolve(path: &[u8], link: &[u8]) -> Option<Vec<u8>> {
    if link.starts_with(b"/") {
        return None;
    }
    let mut parts: Vec<&[u8]> = path.split(|&byte| byte == b'/').collect();
    parts.pop();
    for part in link.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop()?;
            }
            name => parts.push(name),
        }
    }
    Some(parts.join(&b'/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_stay_inside() {
        assert_eq!(
            resolve(b"a/layer.tar", b"../b/layer.tar").unwrap(),
            b"b/layer.tar"
        );
        assert_eq!(resolve(b"layer.tar", b"./b").unwrap(), b"b");
        assert_eq!(resolve(b"a/layer.tar", b"../../b"), None);
        assert_eq!(resolve(b"a", b"/etc/passwd"), None);
    }
}
