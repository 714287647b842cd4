//! The modes of what is made, under the umasks that a process may be started with. A program of its own: the umask is the
//! whole process's.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use kybern_linux::files;
use rustix::fs::Mode;

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn no_umask_changes_what_is_meant() {
    let root = std::env::temp_dir().join(format!("kybern-files-{}", std::process::id()));
    for umask in [0o000, 0o022, 0o077] {
        let dir = root.join(format!("{umask:o}"));
        rustix::process::umask(Mode::empty());
        files::make_dirs(&dir, 0o755).unwrap();
        rustix::process::umask(Mode::from_raw_mode(umask));
        for wanted in [0o700, 0o711, 0o755, 0o1777] {
            let (outer, inner) = (dir.join(format!("{wanted:o}")), dir.join(format!("{wanted:o}/in/side")));
            files::make_dirs(&inner, wanted).unwrap();
            assert_eq!((mode(&outer), mode(&inner)), (wanted, wanted), "umask {umask:o}");
            files::make_dirs(&outer, 0o750).unwrap();
            assert_eq!(mode(&outer), wanted, "what is there keeps its mode");
        }
        for wanted in [0o600, 0o644, 0o666] {
            let file = dir.join(format!("file-{wanted:o}"));
            files::write(&file, "long", wanted).unwrap();
            files::write(&file, "x", wanted).unwrap();
            assert_eq!((mode(&file), std::fs::read_to_string(&file).unwrap().as_str()), (wanted, "x"));
            let log = dir.join(format!("log-{wanted:o}"));
            files::append(&log, wanted).unwrap();
            assert_eq!(mode(&log), wanted, "umask {umask:o}");
        }
        assert!(files::make_dirs(&dir.join("file-600/below"), 0o755).is_err());
        files::set_umask();
        std::fs::create_dir(dir.join("plain")).unwrap();
        assert_eq!(mode(&dir.join("plain")), 0o755);
        files::without_umask(|| std::fs::create_dir(dir.join("open")).unwrap());
        assert_eq!(mode(&dir.join("open")), 0o777);
        std::fs::create_dir(dir.join("again")).unwrap();
        assert_eq!(mode(&dir.join("again")), 0o755);
    }
    std::fs::remove_dir_all(root).unwrap();
}
