//! Writes a volume's files so that a reader sees the old set or the new set, never a mixture: the files lie in a
//! time-stamped directory, `..data` links to it, and a rename swaps the link (`pkg/volume/util/atomic_writer.go`).

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;

use kybern_linux::files;

use super::payload::Payload;

const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";

/// Whether an entry of a volume with this name is the writer's own: a set of files, or a link to one.
pub fn is_own(name: &str) -> bool {
    name == DATA || name == NEW_DATA || is_set(name)
}

fn is_set(name: &str) -> bool {
    name.strip_prefix("..").is_some_and(|stamp| !stamp.is_empty() && stamp.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Brings `dir`, which is there, to hold `payload`, readable by `group` where given. `stamp`, a number, names the new set and
/// must differ from the present one's. What others have put into `dir`, such as places for mounts, stays. Answers whether
/// the files changed.
pub fn write(dir: &Path, payload: &Payload, group: Option<u32>, stamp: &str) -> io::Result<bool> {
    give(dir, group)?;
    let old = fs::read_link(dir.join(DATA)).ok();
    let changed = match &old {
        Some(old) => !holds(&dir.join(old), payload, group)?,
        None => true,
    };
    let set = match old.filter(|_| !changed) {
        Some(old) => old.to_string_lossy().into_owned(),
        None => {
            let name = format!("..{stamp}");
            write_set(&dir.join(&name), payload, group)?;
            let link = dir.join(NEW_DATA);
            let _ = fs::remove_file(&link);
            symlink(&name, &link)?;
            fs::rename(&link, dir.join(DATA))?;
            name
        }
    };
    // Also where nothing changed: an earlier run may have been cut off here.
    let visible: BTreeSet<&str> = payload.keys().filter_map(|path| path.split('/').next()).collect();
    for entry in &visible {
        let user_visible = dir.join(entry);
        if fs::symlink_metadata(&user_visible).is_err() {
            symlink(Path::new(DATA).join(entry), &user_visible)?;
        }
    }
    remove_stale(dir, &set, &visible)?;
    Ok(changed)
}

fn write_set(fresh: &Path, payload: &Payload, group: Option<u32>) -> io::Result<()> {
    if fresh.exists() {
        fs::remove_dir_all(fresh)?;
    }
    make_dir(fresh, group)?;
    for (path, file) in payload {
        let target = fresh.join(path);
        let mut parent = fresh.to_owned();
        for part in Path::new(path).parent().into_iter().flat_map(Path::components) {
            parent.push(part);
            make_dir(&parent, group)?;
        }
        // Nobody else may read it before it has its owner.
        files::write(&target, &file.data, 0o600)?;
        if file.owner.is_some() || group.is_some() {
            chown(&target, file.owner, group)?;
        }
        fs::set_permissions(&target, fs::Permissions::from_mode(file_mode(file.mode, group)))?;
    }
    Ok(())
}

/// Removes the links and sets of files that this writer made earlier and that are not of the present ones.
fn remove_stale(dir: &Path, set: &str, visible: &BTreeSet<&str>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let (name, path) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
        if entry.file_type()?.is_symlink() {
            let own = fs::read_link(&path)? == Path::new(DATA).join(&name);
            if name == NEW_DATA || (own && !visible.contains(name.as_str())) {
                fs::remove_file(&path)?;
            }
        } else if is_set(&name) && name != set {
            fs::remove_dir_all(&path)?;
        }
    }
    Ok(())
}

fn file_mode(mode: u32, group: Option<u32>) -> u32 {
    if group.is_some() { mode | 0o440 } else { mode }
}

fn make_dir(dir: &Path, group: Option<u32>) -> io::Result<()> {
    files::make_dirs(dir, 0o755)?;
    give(dir, group)
}

/// Lets a group read a directory, and what is made in it later.
fn give(dir: &Path, group: Option<u32>) -> io::Result<()> {
    let Some(group) = group else { return Ok(()) };
    let (meta, set) = (fs::metadata(dir)?, 0o2550);
    if meta.gid() == group && meta.mode() & set == set {
        return Ok(());
    }
    chown(dir, None, Some(group))?;
    fs::set_permissions(dir, fs::Permissions::from_mode((meta.mode() & 0o7777) | set))
}

/// Whether a directory holds exactly these files.
fn holds(dir: &Path, payload: &Payload, group: Option<u32>) -> io::Result<bool> {
    let mut found = BTreeSet::new();
    if !dir.is_dir() {
        return Ok(false);
    }
    list_files(dir, "", &mut found)?;
    if found.len() != payload.len() || !payload.keys().all(|path| found.contains(path)) {
        return Ok(false);
    }
    for (path, file) in payload {
        let path = dir.join(path);
        let meta = fs::metadata(&path)?;
        let mode = meta.permissions().mode() & 0o7777;
        let owned = file.owner.is_none_or(|owner| owner == meta.uid());
        if !owned || mode != file_mode(file.mode, group) || fs::read(&path)? != file.data {
            return Ok(false);
        }
    }
    Ok(true)
}

fn list_files(dir: &Path, prefix: &str, found: &mut BTreeSet<String>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let path = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            list_files(&entry.path(), &format!("{path}/"), found)?;
        } else {
            found.insert(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::payload::File;
    use super::*;

    fn set(list: &[(&str, &str)]) -> Payload {
        list.iter()
            .map(|(p, d)| ((*p).to_owned(), File { data: d.as_bytes().to_vec(), mode: 0o640, owner: None }))
            .collect()
    }

    fn visible(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn sets_are_swapped_whole() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("v");
        fs::create_dir(&dir).unwrap();
        assert!(write(&dir, &set(&[("a", "1"), ("d/b", "2")]), None, "1").unwrap());
        assert_eq!(fs::read_to_string(dir.join("d/b")).unwrap(), "2");
        assert_eq!(fs::metadata(dir.join("a")).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(visible(&dir), ["..1", "..data", "a", "d"]);
        assert!(!write(&dir, &set(&[("a", "1"), ("d/b", "2")]), None, "2").unwrap());

        let open = fs::read_link(dir.join(DATA)).unwrap();
        assert!(write(&dir, &set(&[("a", "3"), ("c", "4")]), None, "3").unwrap());
        assert_ne!(fs::read_link(dir.join(DATA)).unwrap(), open);
        assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "3");
        assert_eq!(visible(&dir), ["..3", "..data", "a", "c"]);
        assert!(write(&dir, &set(&[]), None, "4").unwrap());
        assert_eq!(visible(&dir), ["..4", "..data"]);
    }

    #[test]
    fn what_others_made_stays_and_updates_go_on() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path();
        write(dir, &set(&[("a", "1"), ("b", "1")]), None, "1").unwrap();
        fs::create_dir_all(dir.join("scratch/deep")).unwrap();
        fs::create_dir(dir.join("..mine")).unwrap();
        fs::write(dir.join("plain"), "").unwrap();
        symlink("elsewhere", dir.join("link")).unwrap();
        assert!(write(dir, &set(&[("a", "2"), ("c", "2"), ("scratch", "2")]), None, "2").unwrap());
        let expect = ["..2", "..data", "..mine", "a", "c", "link", "plain", "scratch"];
        assert_eq!(visible(dir), expect);
        assert!(dir.join("scratch/deep").is_dir());

        // Cut off after the swap: the next look finishes it.
        fs::remove_file(dir.join("c")).unwrap();
        fs::create_dir(dir.join("..1")).unwrap();
        symlink("..data/b", dir.join("b")).unwrap();
        symlink("..1", dir.join("..data_tmp")).unwrap();
        assert!(!write(dir, &set(&[("a", "2"), ("c", "2"), ("scratch", "2")]), None, "3").unwrap());
        assert_eq!(visible(dir), expect);
    }
}
