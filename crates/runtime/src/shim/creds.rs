//! Who a process runs as: the image's or the pod's user, looked up in the container's own `/etc/passwd` and `/etc/group`.

use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;

use crate::spec::UserSpec;

/// The resolved user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// The primary group first.
    pub(super) groups: Vec<u32>,
    pub(super) home: String,
}

struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn passwd_entries(text: &str) -> impl Iterator<Item = PasswdEntry<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _, uid, gid, _, home) =
            (fields.next()?, fields.next()?, fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        Some(PasswdEntry { name, uid: uid.parse().ok()?, gid: gid.parse().ok()?, home })
    })
}

/// Name, id and members.
fn group_entries(text: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _, gid, members) =
            (fields.next()?, fields.next()?, fields.next()?, fields.next().unwrap_or_default());
        Some((name, gid.parse().ok()?, members))
    })
}

/// Resolves a user the way Docker and containerd do: a number need not be in the files, a name must.
pub(super) fn resolve(spec: &UserSpec, passwd: &str, group: &str) -> Result<Credentials, String> {
    let (user, group_part) = match spec.user.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|g| !g.is_empty())),
        None => (spec.user.as_str(), None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let number = user.parse::<u32>().ok();
    let entry = passwd_entries(passwd).find(|e| match number {
        Some(uid) => e.uid == uid,
        None => e.name == user,
    });
    let (uid, mut gid, home, name) = match (&entry, number) {
        (Some(e), _) => (e.uid, e.gid, e.home.to_owned(), Some(e.name)),
        (None, Some(uid)) => (uid, 0, "/".to_owned(), None),
        (None, None) => return Err(format!("unable to find user {user}: no matching entries in passwd file")),
    };
    if let Some(wanted) = group_part {
        gid = match wanted.parse::<u32>() {
            Ok(gid) => gid,
            Err(_) => group_entries(group)
                .find(|(name, ..)| *name == wanted)
                .map(|(_, gid, _)| gid)
                .ok_or_else(|| format!("unable to find group {wanted}: no matching entries in group file"))?,
        };
    }
    gid = spec.group.unwrap_or(gid);
    let mut groups = vec![gid];
    if let Some(name) = name.filter(|_| !spec.strict) {
        groups.extend(
            group_entries(group).filter(|(_, _, members)| members.split(',').any(|m| m == name)).map(|(_, gid, _)| gid),
        );
    }
    groups.extend(&spec.supplemental_groups);
    let mut seen = std::collections::BTreeSet::new();
    groups.retain(|g| seen.insert(*g));
    Ok(Credentials { uid, gid, groups, home: if home.is_empty() { "/".to_owned() } else { home } })
}

/// Reads a file of the container, at most a megabyte of it; empty when it is not a readable regular file.
pub(super) fn read_file(path: &str) -> String {
    let open = || -> std::io::Result<String> {
        let file = std::fs::File::options().read(true).custom_flags(nonblock()).open(path)?;
        if !file.metadata()?.is_file() {
            return Ok(String::new());
        }
        let mut bytes = Vec::new();
        file.take(1 << 20).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    open().unwrap_or_default()
}

/// A pipe in the file's place must not make the open wait.
fn nonblock() -> i32 {
    rustix::fs::OFlags::NONBLOCK.bits() as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/srv:/bin/false\nbroken\n";
    const GROUP: &str = "root:x:0:\nwww:x:34:\nlog:x:40:other,web\nextra:x:50:web\n";

    fn check(user: &str, group: Option<u32>, supplemental: &[u32], expect: (u32, u32, &[u32], &str)) {
        let spec = UserSpec { user: user.into(), group, supplemental_groups: supplemental.into(), strict: false };
        let got = resolve(&spec, PASSWD, GROUP).unwrap();
        assert_eq!((got.uid, got.gid, got.groups.as_slice(), got.home.as_str()), expect, "{user}");
    }

    #[test]
    fn users() {
        check("", None, &[], (0, 0, &[0], "/root"));
        check("web", None, &[], (33, 34, &[34, 40, 50], "/srv"));
        check("33", None, &[7, 40], (33, 34, &[34, 40, 50, 7], "/srv"));
        check("web:log", None, &[], (33, 40, &[40, 50], "/srv"));
        check("1000", None, &[], (1000, 0, &[0], "/"));
        check("1000:2000", None, &[3000], (1000, 2000, &[2000, 3000], "/"));
        check("1000", Some(5), &[], (1000, 5, &[5], "/"));
        let strict = UserSpec { user: "web".into(), supplemental_groups: vec![7], strict: true, ..Default::default() };
        assert_eq!(resolve(&strict, PASSWD, GROUP).unwrap().groups, [34, 7]);
        for (user, error) in [("nobody", "user nobody"), ("0:none", "group none")] {
            let spec = UserSpec { user: user.into(), ..Default::default() };
            assert!(resolve(&spec, PASSWD, GROUP).unwrap_err().contains(error), "{user}");
        }
    }
}
