//! Who a process is: `user[:group]` looked up in the container's own files.

use std::os::fd::BorrowedFd;
use std::path::Path;

use super::place;
use crate::runtime::blueprint::ProcessPlan;
use crate::runtime::error::{Failure, Step};

/// A user with all groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// All groups, the main one included.
    pub(crate) groups: Vec<u32>,
    /// The home folder.
    pub(crate) home: String,
}

/// The largest `/etc/passwd` and `/etc/group` that are read.
const LARGEST: usize = 10 << 20;

/// The largest number of a user or group, as Docker has it.
const MOST: u32 = i32::MAX.cast_unsigned();

/// Looks up the user and groups of a process.
pub(super) fn identify(root: BorrowedFd<'_>, process: &ProcessPlan) -> Result<Identity, Failure> {
    if process.exact && process.has_home() {
        // Nothing to be read from the container's files.
        return Ok(Identity {
            uid: process.uid,
            gid: process.gid,
            groups: process.groups.clone().unwrap_or_default(),
            home: String::new(),
        });
    }
    let read = |path: &str| match place::read(root, Path::new(path), LARGEST) {
        Ok(content) => Ok(content
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()),
        // Only for a home folder that nobody asked for.
        Err(_) if process.exact => Ok(String::new()),
        Err(error) => Err(Failure::new(Step::User, path, &error)),
    };
    find(process, &read("/etc/passwd")?, &read("/etc/group")?)
        .map_err(|(subject, reason)| Failure::because(Step::User, subject, reason))
}

fn find(process: &ProcessPlan, passwd: &str, group: &str) -> Result<Identity, (String, &'static str)> {
    let mut identity = match process.user.as_deref().filter(|user| !user.is_empty()) {
        Some(wanted) => named(wanted, passwd, group)?,
        // Nothing said, not even by the spec: root with what its groups are.
        None if process.uid == 0 && process.gid == 0 && process.groups.is_none() && !process.exact => {
            named("0", passwd, group)?
        }
        None => Identity {
            uid: process.uid,
            gid: process.gid,
            groups: process.groups.clone().unwrap_or_default(),
            home: users(passwd)
                .find(|user| user.uid == process.uid)
                .map_or("/", |user| user.home)
                .to_owned(),
        },
    };
    for added in &process.group_add {
        identity.groups.push(group_number(added, group)?);
    }
    if process.exact {
        return Ok(identity);
    }
    // Without its main group in the list, a program that changes its main
    // group would lose what files deny to that group.
    identity.groups.push(identity.gid);
    identity.groups.sort_unstable();
    identity.groups.dedup();
    Ok(identity)
}

/// For fuzzing: a wanted user with files of a container.
///
/// # Panics
/// When a plain number that no account is named after becomes another, or one
/// out of range is taken.
pub(in crate::runtime) fn check_user(wanted: &str, files: &str) {
    let process = ProcessPlan {
        user: Some(wanted.to_owned()),
        ..ProcessPlan::default()
    };
    let Ok(found) = find(&process, files, files) else {
        return;
    };
    if wanted.is_empty() {
        return;
    }
    let (user, group) = wanted.split_once(':').unwrap_or((wanted, ""));
    let named = |name: &str, entry: &str| entry.split(':').next() == Some(name);
    for (text, number) in [(user, found.uid), (group, found.gid)] {
        let is_name = files.lines().any(|entry| named(text, entry));
        if digits(text) && !is_name {
            assert_eq!(text.parse(), Ok(number), "{wanted:?} is {found:?}");
        }
        if !text.is_empty() && !digits(text) {
            assert!(is_name, "{wanted:?} is {found:?}");
        }
        assert!(number <= MOST || is_name, "{wanted:?} is {found:?}");
    }
}

fn named(wanted: &str, passwd: &str, group: &str) -> Result<Identity, (String, &'static str)> {
    let (user, main) = match wanted.split_once(':') {
        Some((user, main)) => (user, Some(main)),
        None => (wanted, None),
    };
    if user.is_empty() || main == Some("") {
        return Err((wanted.into(), "user and group cannot be empty"));
    }
    let number = parse(user);
    let entry = users(passwd)
        .find(|entry| entry.name == user)
        .or_else(|| users(passwd).find(|entry| Some(entry.uid) == number));
    let (uid, own_gid, home) = match (&entry, number) {
        (Some(entry), _) => (entry.uid, entry.gid, entry.home),
        (None, Some(number)) => (number, 0, "/"),
        (None, None) if digits(user) => return Err((user.into(), "the number is out of range")),
        (None, None) => return Err((user.into(), "no such user in /etc/passwd of the container")),
    };
    let mut groups = Vec::new();
    let gid = match main {
        Some(main) => group_number(main, group)?,
        None => {
            if let Some(entry) = &entry {
                let member = |of: &Group<'_>| of.members.split(',').any(|member| member == entry.name);
                groups.extend(all_groups(group).filter(member).map(|of| of.gid));
            }
            own_gid
        }
    };
    Ok(Identity {
        uid,
        gid,
        groups,
        home: home.to_owned(),
    })
}

fn group_number(wanted: &str, group: &str) -> Result<u32, (String, &'static str)> {
    if let Some(found) = all_groups(group).find(|entry| entry.name == wanted) {
        return Ok(found.gid);
    }
    match parse(wanted) {
        Some(number) => Ok(number),
        None if digits(wanted) => Err((wanted.into(), "the number is out of range")),
        None => Err((wanted.into(), "no such group in /etc/group of the container")),
    }
}

fn digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// A plain decimal number in range: no sign, no space, no `0x`.
fn parse(text: &str) -> Option<u32> {
    if !digits(text) {
        return None;
    }
    text.parse().ok().filter(|number| *number <= MOST)
}

struct User<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// The well-formed lines of `/etc/passwd`.
fn users(passwd: &str) -> impl Iterator<Item = User<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _, uid, gid) = (
            fields.next()?,
            fields.next()?,
            parse(fields.next()?)?,
            parse(fields.next()?)?,
        );
        let home = fields.nth(1).filter(|home| home.starts_with('/')).unwrap_or("/");
        (!name.is_empty()).then_some(User { name, uid, gid, home })
    })
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

/// The well-formed lines of `/etc/group`.
fn all_groups(group: &str) -> impl Iterator<Item = Group<'_>> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _, gid) = (fields.next()?, fields.next()?, parse(fields.next()?)?);
        let members = fields.next().unwrap_or_default();
        (!name.is_empty()).then_some(Group { name, gid, members })
    })
}

#[cfg(test)]
fn lookup(user: &str, add: &[&str]) -> Result<(u32, u32, Vec<u32>, String), String> {
    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbad line\nweb:x:101:102::/srv/web:/bin/sh\n1000:x:5:6::/odd:\nbig:x:4294967296:0::/:\n";
    const GROUP: &str = "root:x:0:\ndisk:x:6:root,web\nweb:x:102:\nextra:x:77:web\n";
    let process = ProcessPlan {
        user: (!user.is_empty()).then(|| user.to_owned()),
        group_add: add.iter().map(|name| (*name).to_owned()).collect(),
        ..ProcessPlan::default()
    };
    find(&process, PASSWD, GROUP)
        .map(|found| (found.uid, found.gid, found.groups, found.home))
        .map_err(|(subject, reason)| format!("{subject}: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_looked_up() {
        assert_eq!(lookup("", &[]).unwrap(), (0, 0, vec![0, 6], "/root".into()));
        assert_eq!(
            lookup("web", &[]).unwrap(),
            (101, 102, vec![6, 77, 102], "/srv/web".into())
        );
        assert_eq!(
            lookup("101", &[]).unwrap(),
            (101, 102, vec![6, 77, 102], "/srv/web".into())
        );
        assert_eq!(
            lookup("web:root", &[]).unwrap(),
            (101, 0, vec![0], "/srv/web".into())
        );
        assert_eq!(
            lookup("7:8", &["disk", "99"]).unwrap(),
            (7, 8, vec![6, 8, 99], "/".into())
        );
        // A name wins over a number.
        assert_eq!(lookup("1000", &[]).unwrap().0, 5);
    }

    #[test]
    fn what_is_neither_is_an_error() {
        for user in [
            "nosuch",
            "0x0",
            "0abc",
            "-1",
            "+1",
            " 1",
            "4294967295",
            "4294967296",
            "2147483648",
            ":",
            "web:",
            ":web",
            "web:nosuch",
            "big",
        ] {
            assert!(lookup(user, &[]).is_err(), "{user:?}");
        }
        assert!(lookup("web", &["nosuch"]).is_err());
        assert_eq!(lookup("2147483647", &[]).unwrap().0, 2_147_483_647);
    }
}
