//! Relative paths of a document, made absolute against the folder they are
//! relative to.

use std::path::{Component, Path, PathBuf};

use smol_str::SmolStr;

use super::short::{clean_path, is_windows_path};
use super::tree::{Node, Value};

/// `path` against `base`, without `.` and `..`, by its text alone. `~` is the
/// home folder, when there is one.
pub(crate) fn absolute(path: &str, base: &Path, home: Option<&str>) -> PathBuf {
    let expanded = match (path.strip_prefix('~'), home) {
        (Some(""), Some(home)) => PathBuf::from(home),
        (Some(rest), Some(home)) if rest.starts_with('/') => {
            Path::new(home).join(rest.trim_start_matches('/'))
        }
        _ => PathBuf::from(path),
    };
    clean(&base.join(expanded))
}

/// A path without `.` and `..`, by its text alone.
pub(super) fn clean(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => match out.components().next_back() {
                Some(Component::Normal(_)) => {
                    out.pop();
                }
                Some(Component::RootDir) => {}
                _ => out.push(".."),
            },
            other => out.push(other),
        }
    }
    out
}

/// The schemes of images that are paths of this machine.
const LOCAL_IMAGES: [&str; 4] = ["oci:", "oci-archive:", "docker-archive:", "rootfs:"];

/// An image reference with its path made absolute, when it is a path of this
/// machine. The tag of `oci:PATH:TAG` stays.
pub(crate) fn absolute_image(image: &str, base: &Path, home: Option<&str>) -> Option<String> {
    let (scheme, path) = LOCAL_IMAGES
        .iter()
        .find_map(|scheme| Some((*scheme, image.strip_prefix(scheme)?)))?;
    if path.is_empty() {
        return None;
    }
    let (path, tag) = match path.rsplit_once(':') {
        Some((path, tag)) if scheme == "oci:" && !path.is_empty() && !tag.contains('/') => (path, Some(tag)),
        _ => (path, None),
    };
    let path = absolute(path, base, home);
    let path = path.display();
    Some(match tag {
        Some(tag) => format!("{scheme}{path}:{tag}"),
        None => format!("{scheme}{path}"),
    })
}

/// Makes the paths of a document in its long form absolute.
pub(super) fn resolve(document: &mut Node, base: &Path, home: Option<&str>) {
    let at = |node: Option<&mut Node>| resolve_text(node, base, home);
    if let Some(Value::Map(services)) = document.get_mut("services").map(|node| &mut node.value) {
        for service in services.values_mut() {
            resolve_service(&mut service.node, base, home);
        }
    }
    for section in ["configs", "secrets"] {
        if let Some(Value::Map(files)) = document.get_mut(section).map(|node| &mut node.value) {
            files
                .values_mut()
                .for_each(|entry| resolve_file(entry.node.get_mut("file"), base, home));
        }
    }
    if let Some(Value::Map(volumes)) = document.get_mut("volumes").map(|node| &mut node.value) {
        for volume in volumes.values_mut() {
            let is_local = volume.node.text_of("driver") == Some("local");
            if let Some(options) = volume.node.get_mut("driver_opts")
                && is_local
                && options.text_of("o") == Some("bind")
            {
                at(options.get_mut("device"));
            }
        }
    }
}

fn resolve_text(node: Option<&mut Node>, base: &Path, home: Option<&str>) {
    if let Some(Value::Text(text)) = node.map(|node| &mut node.value)
        && !text.is_empty()
    {
        resolve_path(text, base, home);
    }
}

fn resolve_path(text: &mut SmolStr, base: &Path, home: Option<&str>) {
    if !text.starts_with('/') {
        *text = match base.to_str() {
            Some(base) if !text.starts_with('~') && base.starts_with('/') => {
                clean_path(&format!("{base}/{text}")).into()
            }
            _ => absolute(text, base, home).display().to_string().into(),
        };
    }
}

/// As [`resolve_text`]; no path at all is the folder itself, and a path of
/// Windows is left alone.
fn resolve_file(node: Option<&mut Node>, base: &Path, home: Option<&str>) {
    if let Some(Value::Text(text)) = node.map(|node| &mut node.value) {
        if text.is_empty() {
            *text = base.display().to_string().into();
        } else if !is_windows_path(text) {
            resolve_path(text, base, home);
        }
    }
}

fn resolve_service(service: &mut Node, base: &Path, home: Option<&str>) {
    let at = |node: Option<&mut Node>| resolve_text(node, base, home);
    if let Some(image) = service.get_mut("image")
        && let Value::Text(text) = &mut image.value
        && let Some(resolved) = absolute_image(text, base, home)
    {
        *text = resolved.into();
    }
    if let Some(build) = service.get_mut("build") {
        if let Some(context) = build.get_mut("context") {
            resolve_context(context, base, home);
        }
        if let Some(Value::Map(contexts)) = build.get_mut("additional_contexts").map(|node| &mut node.value) {
            for context in contexts.values_mut() {
                resolve_context(&mut context.node, base, home);
            }
        }
        if let Some(Value::Map(agents)) = build.get_mut("ssh").map(|node| &mut node.value) {
            agents.values_mut().for_each(|agent| at(Some(&mut agent.node)));
        }
    }
    // Left over only when what is extended is nothing.
    if let Some(extends) = service.get_mut("extends") {
        at(extends.get_mut("file"));
    }
    for (list, key) in [("env_file", Some("path")), ("label_file", None)] {
        if let Some(Value::List(items)) = service.get_mut(list).map(|node| &mut node.value) {
            for item in items {
                at(match key {
                    Some(key) => item.get_mut(key),
                    None => Some(item),
                });
            }
        }
    }
    if let Some(Value::List(rules)) = service
        .get_mut("develop")
        .and_then(|develop| develop.get_mut("watch"))
        .map(|node| &mut node.value)
    {
        rules.iter_mut().for_each(|rule| at(rule.get_mut("path")));
    }
    if let Some(Value::List(mounts)) = service.get_mut("volumes").map(|node| &mut node.value) {
        for mount in mounts
            .iter_mut()
            .filter(|mount| mount.text_of("type") == Some("bind"))
        {
            resolve_file(mount.get_mut("source"), base, home);
        }
    }
}

/// A build context: a folder, unless it is a URL, an image or a service.
fn resolve_context(context: &mut Node, base: &Path, home: Option<&str>) {
    let is_remote = context.as_text().is_some_and(|text| {
        text.contains("://")
            || [
                "git@",
                "github.com/",
                "docker-image:",
                "service:",
                "target:",
                "oci-layout:",
            ]
            .iter()
            .any(|prefix| text.starts_with(prefix))
    });
    if !is_remote {
        resolve_text(Some(context), base, home);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_joined_and_cleaned() {
        let base = Path::new("/p/q");
        for (path, expected) in [
            (".", "/p/q"),
            ("./a", "/p/q/a"),
            ("../a/./b", "/p/a/b"),
            ("/x/../y", "/y"),
            ("~", "/h"),
            ("~/a", "/h/a"),
            ("~other", "/p/q/~other"),
            ("../../../../a", "/a"),
        ] {
            assert_eq!(absolute(path, base, Some("/h")), Path::new(expected), "{path}");
        }
        assert_eq!(absolute("~/a", base, None), Path::new("/p/q/~/a"));
    }

    #[test]
    fn images_of_this_machine_are_paths() {
        let at = |image: &str| absolute_image(image, Path::new("/p"), Some("/h"));
        assert_eq!(at("oci:img:v1").as_deref(), Some("oci:/p/img:v1"));
        assert_eq!(at("oci:./img").as_deref(), Some("oci:/p/img"));
        assert_eq!(at("oci-archive:~/a.tar").as_deref(), Some("oci-archive:/h/a.tar"));
        assert_eq!(
            at("docker-archive:/a.tar").as_deref(),
            Some("docker-archive:/a.tar")
        );
        assert_eq!(at("rootfs:/").as_deref(), Some("rootfs:/"));
        assert_eq!(at("nginx:1.27"), None);
        assert_eq!(at("oci:"), None);
    }
}
