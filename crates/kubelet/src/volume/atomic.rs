//! Writes a volume's files so that a reader sees the old set or the new set, never a mixture: the files lie in a
//! time-stamped directory, `..data` links to it, and a rename swaps the link (`pkg/volume/util/atomic_writer.go`).

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown, symlink};
use std::path::Path;

use super::payload::Payload;

const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";

/// Brings `dir` to hold `payload`, readable by `group` where given. `stamp` names the new set and must differ from the
/// present one's. Answers whether anything changed.
pub fn write(dir: &Path, payload: &Payload, group: Option<u32>, stamp: &str) -> io::Result<bool> {
    make_dir(dir, group)?;
    let old = fs::read_link(dir.join(DATA)).ok();
    if let Some(old) = &old
        && holds(&dir.join(old), payload, group)?
    {
        return Ok(false);
    }
    let name = format!("..{stamp}");
    let fresh = dir.join(&name);
    if fresh.exists() {
        fs::remove_dir_all(&fresh)?;
    }
    make_dir(&fresh, group)?;
    for (path, file) in payload {
        let target = fresh.join(path);
        let mut parent = fresh.clone();
        for part in Path::new(path).parent().into_iter().flat_map(Path::components) {
            parent.push(part);
            make_dir(&parent, group)?;
        }
        fs::write(&target, &file.data)?;
        if let Some(group) = group {
            chown(&target, None, Some(group))?;
        }
        fs::set_permissions(&target, fs::Permissions::from_mode(file_mode(file.mode, group)))?;
    }
    let link = dir.join(NEW_DATA);
    let _ = fs::remove_file(&link);
    symlink(&name, &link)?;
    fs::rename(&link, dir.join(DATA))?;
    let visible: BTreeSet<&str> = payload.keys().filter_map(|path| path.split('/').next()).collect();
    for entry in &visible {
        let user_visible = dir.join(entry);
        if fs::symlink_metadata(&user_visible).is_err() {
            symlink(Path::new(DATA).join(entry), &user_visible)?;
        }
    }
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name_here = entry.file_name();
        let text = name_here.to_string_lossy();
        let stale_link = !text.starts_with("..") && !visible.contains(text.as_ref());
        let stale_set = text.starts_with("..") && text != DATA && text != name.as_str();
        if stale_link {
            fs::remove_file(entry.path())?;
        } else if stale_set {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(true)
}

fn file_mode(mode: u32, group: Option<u32>) -> u32 {
    if group.is_some() { mode | 0o440 } else { mode }
}

fn make_dir(dir: &Path, group: Option<u32>) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(dir)?;
    let mode = if group.is_some() { 0o2755 } else { 0o755 };
    if let Some(group) = group {
        chown(dir, None, Some(group))?;
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(mode))
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
        let mode = fs::metadata(&path)?.permissions().mode() & 0o7777;
        if mode != file_mode(file.mode, group) || fs::read(&path)? != file.data {
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

    fn files(list: &[(&str, &str)]) -> Payload {
        list.iter().map(|(p, d)| ((*p).to_owned(), File { data: d.as_bytes().to_vec(), mode: 0o640 })).collect()
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
        assert!(write(&dir, &files(&[("a", "1"), ("d/b", "2")]), None, "1").unwrap());
        assert_eq!(fs::read_to_string(dir.join("d/b")).unwrap(), "2");
        assert_eq!(fs::metadata(dir.join("a")).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(visible(&dir), ["..1", "..data", "a", "d"]);
        assert!(!write(&dir, &files(&[("a", "1"), ("d/b", "2")]), None, "2").unwrap());

        let open = fs::read_link(dir.join(DATA)).unwrap();
        assert!(write(&dir, &files(&[("a", "3"), ("c", "4")]), None, "3").unwrap());
        assert_ne!(fs::read_link(dir.join(DATA)).unwrap(), open);
        assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "3");
        assert_eq!(visible(&dir), ["..3", "..data", "a", "c"]);
        assert!(write(&dir, &files(&[]), None, "4").unwrap());
        assert_eq!(visible(&dir), ["..4", "..data"]);
    }
}
