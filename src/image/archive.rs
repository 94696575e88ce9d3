//! Images in files: OCI layouts (in a directory or a tar file) and what
//! `docker save` writes.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use super::digest::Digest;
use super::error::{ImageError, chain};
use super::layer::decode;
use super::manifest::{self, CONFIG_LIMIT, Descriptor, Document, LAYERS_LIMIT, MANIFEST_LIMIT, Platform};
use super::pull::{Blob, Candidate, Place};
use super::reference::{Reference, Source};
use super::unpack::{Limits, Member, members};

/// Most symbolic links from one name to the next, as in `docker save` of old.
const LINKS_LIMIT: usize = 8;
/// Indexes inside indexes.
const NESTING_LIMIT: usize = 4;

/// An opened local source.
pub(super) struct Archive<'a> {
    image: &'a str,
    source: &'a Source,
    contents: Contents,
}

/// Where the named files are.
enum Contents {
    Directory(PathBuf),
    Tar {
        file: Arc<File>,
        members: HashMap<Vec<u8>, Member>,
    },
}

/// An entry of `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

impl<'a> Archive<'a> {
    /// Opens the place of a source. A compressed archive is decompressed into a
    /// nameless file in `scratch`, as its members are read out of order.
    pub(super) fn open(image: &'a str, source: &'a Source, scratch: &Path) -> Result<Self, ImageError> {
        let path = source.path().unwrap_or(Path::new(""));
        let wrong = |reason: &str| ImageError::Place {
            image: image.to_owned(),
            path: path.to_owned(),
            reason: reason.to_owned(),
        };
        let found = match fs::metadata(path) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(wrong("does not exist")),
            Err(error) => return Err(ImageError::io("look at", path)(error)),
        };
        let contents = if let Source::Layout { .. } = source {
            if !found.is_dir() {
                return Err(wrong("is not a directory"));
            }
            Contents::Directory(path.to_owned())
        } else {
            if !found.is_file() {
                return Err(wrong("is not a file"));
            }
            let file = File::open(path).map_err(ImageError::io("open", path))?;
            return Self::of_file(image, source, file, scratch);
        };
        Ok(Self {
            image,
            source,
            contents,
        })
    }

    /// The folder of a layout.
    pub(super) fn of_folder(image: &'a str, source: &'a Source, folder: PathBuf) -> Self {
        Self {
            image,
            source,
            contents: Contents::Directory(folder),
        }
    }

    /// An archive that is open.
    pub(super) fn of_file(
        image: &'a str,
        source: &'a Source,
        mut file: File,
        scratch: &Path,
    ) -> Result<Self, ImageError> {
        let path = source.path().unwrap_or(Path::new(""));
        let wrong = |reason: &str| ImageError::Place {
            image: image.to_owned(),
            path: path.to_owned(),
            reason: reason.to_owned(),
        };
        let contents = {
            let mut head = [0; 4];
            let have = file.read_at(&mut head, 0).map_err(ImageError::io("read", path))?;
            if is_compressed(head.get(..have).unwrap_or_default()) {
                file =
                    decompress(file, scratch).map_err(|error| wrong(&format!("cannot be read: {error}")))?;
            }
            file.rewind().map_err(ImageError::io("read", path))?;
            let members =
                members(&file).map_err(|error| wrong(&format!("cannot be read: {}", chain(&error))))?;
            Contents::Tar {
                file: Arc::new(file),
                members,
            }
        };
        Ok(Self {
            image,
            source,
            contents,
        })
    }

    /// The image that the source names.
    pub(super) fn find(&self, own: &Platform) -> Result<Candidate, ImageError> {
        match self.source {
            Source::DockerArchive { reference, .. } => self.find_saved(reference.as_ref()),
            Source::Layout { tag, .. } | Source::LayoutArchive { tag, .. } => {
                self.find_in_layout(tag.as_deref(), own)
            }
            Source::Registry(_) | Source::Rootfs { .. } => Err(self.wrong("is no archive".to_owned())),
        }
    }

    /// Every image of an archive that runs on a platform, with the names it has
    /// there. What `docker save` writes today is both kinds of archive: its OCI
    /// part says more, its names are in the other.
    pub(super) fn all(&self, platform: &Platform) -> Result<Vec<(Candidate, Vec<String>)>, ImageError> {
        if self.contents.has("manifest.json") {
            let saved = self.saved_list()?;
            let mut images = Vec::with_capacity(saved.len());
            let index = match self.contents.has("index.json") {
                true => self.index()?,
                false => Vec::new(),
            };
            for one in &saved {
                // The OCI part has the manifest as the registry had it.
                let oci = index.iter().find_map(|entry| {
                    let found = self.choose(vec![entry.clone()], platform).ok()?;
                    let same = self.read(&one.config, CONFIG_LIMIT).ok()? == found.config;
                    same.then_some(found)
                });
                let candidate = match oci {
                    Some(candidate) => candidate,
                    None => self.saved(one)?,
                };
                images.push((candidate, one.repo_tags.clone().unwrap_or_default()));
            }
            return Ok(images);
        }
        if !self.contents.has("oci-layout") {
            return Err(
                self.wrong("holds no images: neither manifest.json nor oci-layout is in it".to_owned())
            );
        }
        let mut images = Vec::new();
        let mut by_name: std::collections::BTreeMap<Option<String>, Vec<Descriptor>> =
            std::collections::BTreeMap::new();
        for entry in self.index()? {
            by_name.entry(entry.name()).or_default().push(entry);
        }
        for (name, entries) in by_name {
            images.push((self.choose(entries, platform)?, name.into_iter().collect()));
        }
        Ok(images)
    }

    fn index(&self) -> Result<Vec<Descriptor>, ImageError> {
        let index = self.read("index.json", MANIFEST_LIMIT)?;
        match manifest::parse(&index).map_err(|reason| self.document("index", reason))? {
            Document::Index(entries) => Ok(entries),
            Document::Manifest { .. } => Err(self.document("index", "is a manifest".to_owned())),
        }
    }

    fn saved_list(&self) -> Result<Vec<Saved>, ImageError> {
        let bytes = self.read("manifest.json", MANIFEST_LIMIT)?;
        serde_json::from_slice(&bytes)
            .map_err(|error| self.document("manifest.json", format!("is malformed: {error}")))
    }

    fn find_in_layout(&self, tag: Option<&str>, own: &Platform) -> Result<Candidate, ImageError> {
        if !self.contents.has("oci-layout") {
            return Err(self.wrong("is not an OCI image layout: it has no oci-layout file".to_owned()));
        }
        let entries = self.index()?;
        let tags = || {
            let mut tags: Vec<_> = entries.iter().filter_map(Descriptor::tag).collect();
            tags.sort_unstable();
            tags.dedup();
            if tags.is_empty() {
                "without tags".to_owned()
            } else {
                tags.join(", ")
            }
        };
        let named: Vec<_> = match tag {
            Some(tag) => entries
                .iter()
                .filter(|entry| entry.tag() == Some(tag))
                .cloned()
                .collect(),
            None => entries.clone(),
        };
        if named.is_empty() {
            return Err(self.wrong(match tag {
                Some(tag) => format!("has no image {tag:?}, only {}", tags()),
                None => "holds no image".to_owned(),
            }));
        }
        if tag.is_none() {
            let names: std::collections::BTreeSet<_> = named.iter().map(Descriptor::tag).collect();
            let untagged = named
                .iter()
                .filter(|entry| entry.tag().is_none() && entry.platform.is_none())
                .count();
            if names.len() > 1 || untagged > 1 {
                return Err(self.wrong(format!(
                    "holds several images ({}): name one after a colon",
                    tags()
                )));
            }
        }
        self.choose(named, own)
    }

    /// The image of some descriptors for a platform.
    fn choose(&self, mut entries: Vec<Descriptor>, own: &Platform) -> Result<Candidate, ImageError> {
        let mut top = match entries.as_slice() {
            [one] => Some(one.digest),
            _ => None,
        };
        for _ in 0..NESTING_LIMIT {
            let chosen = manifest::choose(own, &entries).map_err(|available| ImageError::Platform {
                image: self.image.to_owned(),
                wanted: own.to_string(),
                available,
            })?;
            let bytes = self.read_blob(&chosen, "manifest", MANIFEST_LIMIT)?;
            top = top.or(Some(chosen.digest));
            match manifest::parse(&bytes).map_err(|reason| self.document("manifest", reason))? {
                Document::Index(inner) => entries = inner,
                Document::Manifest { config, layers } => {
                    let mut blobs = Vec::with_capacity(layers.len());
                    for layer in &layers {
                        blobs.push(Blob {
                            digest: Some((layer.digest, layer.size)),
                            place: self.place(&blob_name(&layer.digest))?,
                        });
                    }
                    return Ok(Candidate {
                        config: self.read_blob(&config, "configuration", CONFIG_LIMIT)?,
                        manifest: Some((chosen.digest, bytes)),
                        layers: blobs,
                        top,
                    });
                }
            }
        }
        Err(self.document("index", "holds only indexes".to_owned()))
    }

    fn find_saved(&self, reference: Option<&Reference>) -> Result<Candidate, ImageError> {
        if !self.contents.has("manifest.json") {
            return Err(self.wrong("is not a docker archive: it has no manifest.json".to_owned()));
        }
        let saved = self.saved_list()?;
        let tags = |one: &Saved| one.repo_tags.clone().unwrap_or_default();
        let all = || saved.iter().flat_map(tags).collect::<Vec<_>>().join(", ");
        let chosen = match reference {
            Some(wanted) => {
                let is_it = |tag: &String| Reference::parse(tag).is_ok_and(|tag| tag == *wanted);
                saved
                    .iter()
                    .find(|one| tags(one).iter().any(is_it))
                    .ok_or_else(|| {
                        self.wrong(format!("has no image {}, only {}", wanted.familiar(), all()))
                    })?
            }
            None => match saved.as_slice() {
                [one] => one,
                [] => return Err(self.wrong("holds no image".to_owned())),
                _ => {
                    return Err(self.wrong(format!(
                        "holds several images ({}): name one after a colon",
                        all()
                    )));
                }
            },
        };
        self.saved(chosen)
    }

    fn saved(&self, chosen: &Saved) -> Result<Candidate, ImageError> {
        let layers = chosen.layers.as_deref().unwrap_or_default();
        if layers.len() > LAYERS_LIMIT {
            return Err(self.document("manifest.json", format!("has more than {LAYERS_LIMIT} layers")));
        }
        let mut blobs = Vec::with_capacity(layers.len());
        for layer in layers {
            // The digests in the configuration are of the decompressed layers:
            // these alone are checked, as the format has no others.
            blobs.push(Blob {
                digest: None,
                place: self.place(layer)?,
            });
        }
        Ok(Candidate {
            config: self.read(&chosen.config, CONFIG_LIMIT)?,
            manifest: None,
            layers: blobs,
            top: None,
        })
    }

    fn read_blob(&self, blob: &Descriptor, what: &str, limit: u64) -> Result<Vec<u8>, ImageError> {
        let bytes = self.read(&blob_name(&blob.digest), limit)?;
        if bytes.len() as u64 != blob.size {
            return Err(ImageError::WrongSize {
                image: self.image.to_owned(),
                what: what.to_owned(),
                expected: blob.size,
                actual: bytes.len() as u64,
            });
        }
        let actual = Digest::of(&bytes);
        if actual != blob.digest {
            return Err(ImageError::WrongDigest {
                image: self.image.to_owned(),
                what: what.to_owned(),
                expected: blob.digest,
                actual,
            });
        }
        Ok(bytes)
    }

    /// Reads a small file whole.
    fn read(&self, name: &str, limit: u64) -> Result<Vec<u8>, ImageError> {
        let mut bytes = Vec::new();
        let io = |error| ImageError::io("read", &self.path().join(name))(error);
        let count = match self.place(name)? {
            Place::File(path) => {
                let file = File::open(path).map_err(io)?;
                file.take(limit + 1).read_to_end(&mut bytes).map_err(io)?
            }
            Place::Slice(file, offset, length) => {
                let mut slice = super::layer::Slice::new(file, offset, length).take(limit + 1);
                let count = slice.read_to_end(&mut bytes).map_err(io)?;
                if (count as u64) < length.min(limit + 1) {
                    return Err(self.wrong(format!("is cut off in {name}")));
                }
                count
            }
            Place::Registry => 0,
        };
        if count as u64 > limit {
            return Err(self.wrong(format!("has a {name} of more than {limit} bytes")));
        }
        Ok(bytes)
    }

    /// Where a named file is.
    fn place(&self, name: &str) -> Result<Place, ImageError> {
        let missing = || self.wrong(format!("lacks {name}"));
        match &self.contents {
            Contents::Directory(root) => {
                // Names come from documents inside, which may not point outside.
                let inside = Path::new(name)
                    .components()
                    .all(|part| matches!(part, std::path::Component::Normal(_)));
                let path = root.join(name);
                if inside && path.is_file() {
                    Ok(Place::File(path))
                } else {
                    Err(missing())
                }
            }
            Contents::Tar { file, members } => {
                let mut name = name.as_bytes().to_vec();
                for _ in 0..LINKS_LIMIT {
                    match members.get(&name) {
                        Some(Member::File { offset, length }) => {
                            return Ok(Place::Slice(Arc::clone(file), *offset, *length));
                        }
                        Some(Member::Link { target }) => name.clone_from(target),
                        None => return Err(missing()),
                    }
                }
                Err(missing())
            }
        }
    }

    fn path(&self) -> &Path {
        self.source.path().unwrap_or(Path::new(""))
    }

    fn wrong(&self, reason: String) -> ImageError {
        ImageError::Place {
            image: self.image.to_owned(),
            path: self.path().to_owned(),
            reason,
        }
    }

    fn document(&self, what: &'static str, reason: String) -> ImageError {
        ImageError::Document {
            image: self.image.to_owned(),
            what,
            reason,
        }
    }
}

impl Contents {
    fn has(&self, name: &str) -> bool {
        match self {
            Self::Directory(root) => root.join(name).is_file(),
            Self::Tar { members, .. } => members.contains_key(name.as_bytes()),
        }
    }
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn is_compressed(head: &[u8]) -> bool {
    head.starts_with(&[0x1f, 0x8b]) || head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd])
}

/// Decompresses into a file without a name, which goes with this process.
fn decompress(file: File, scratch: &Path) -> io::Result<File> {
    use rustix::fs::{CWD, Mode, OFlags};
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let mut plain = File::from(rustix::fs::openat(
        CWD,
        scratch,
        flags,
        Mode::from_raw_mode(0o600),
    )?);
    let limit = Limits::of(&std::os::fd::OwnedFd::from(File::open(scratch)?))?.bytes;
    let mut stream = decode(file)
        .map_err(|error| io::Error::other(chain(&error)))?
        .take(limit);
    let count = io::copy(&mut stream, &mut plain)?;
    if count == limit {
        return Err(io::Error::from(io::ErrorKind::StorageFull));
    }
    Ok(plain)
}
