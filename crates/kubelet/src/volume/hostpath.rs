//! `hostPath` types: what must be there, and what is made (`pkg/volume/hostpath`).

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use kybern_linux::files;

/// Checks the path of a `hostPath` volume, making what its type allows to make.
pub fn prepare(path: &Path, kind: &str) -> Result<(), String> {
    let shown = path.display();
    let fail = |what: &str| Err(format!("hostPath type check failed: {shown} is not a {what}"));
    let found = fs::metadata(path).ok().map(|m| m.file_type());
    match (kind, found) {
        ("", _) => Ok(()),
        ("DirectoryOrCreate", None) => files::make_dirs(path, 0o755).map_err(|e| format!("cannot make {shown}: {e}")),
        ("FileOrCreate", None) => {
            let made = files::append(path, 0o644);
            made.map(drop).map_err(|e| format!("cannot make {shown}: {e}"))
        }
        ("Directory" | "DirectoryOrCreate", found) if !found.is_some_and(|f| f.is_dir()) => fail("directory"),
        ("File" | "FileOrCreate", found) if !found.is_some_and(|f| f.is_file()) => fail("file"),
        ("Socket", found) if !found.is_some_and(|f| f.is_socket()) => fail("socket file"),
        ("CharDevice", found) if !found.is_some_and(|f| f.is_char_device()) => fail("character device"),
        ("BlockDevice", found) if !found.is_some_and(|f| f.is_block_device()) => fail("block device"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types() {
        let temp = tempfile::tempdir().unwrap();
        let (file, dir, none) = (temp.path().join("f"), temp.path().join("d"), temp.path().join("n"));
        fs::write(&file, "").unwrap();
        fs::create_dir(&dir).unwrap();
        let check = |path: &Path, kind: &str, expect: Option<&str>| {
            let got = prepare(path, kind).err();
            let expect = expect.map(|what| format!("hostPath type check failed: {} is not a {what}", path.display()));
            assert_eq!(got, expect, "{kind}");
        };
        check(&none, "", None);
        check(&none, "Directory", Some("directory"));
        check(&file, "Directory", Some("directory"));
        check(&dir, "Directory", None);
        check(&file, "File", None);
        check(&dir, "FileOrCreate", Some("file"));
        check(&file, "Socket", Some("socket file"));
        check(Path::new("/dev/null"), "CharDevice", None);
        check(&none.join("deep"), "DirectoryOrCreate", None);
        assert!(none.join("deep").is_dir());
    }
}
