//! Every target over its corpus, and over mutations of it for a moment. What it finds is printed as a file for the corpus.
//! `KYBERN_FUZZ_MILLIS` gives each target another time, `KYBERN_FUZZ_SEED` other mutations.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use kybern_fuzzing::{TARGETS, Target};

const MILLIS: u64 = 700;
/// What parsers look for.
const TOKENS: [&[u8]; 16] = [
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b":",
    b",",
    b"null",
    b"{\"a\":",
    b"[[[[[[[[[[[[[[[[",
    b"-1",
    b"1e999",
    b"\xff\xff\xff\xff",
    b"\0\0\0\0",
    b"/",
    b"- ",
];

/// A sequence that follows from its seed.
struct Random(u64);
impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit.max(1) as u64) as usize
    }
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().map_or(default, |text| text.parse().expect("a number"))
}

fn corpus(target: &Target) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target.name);
    let entries = std::fs::read_dir(&directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} has no corpus", target.name);
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

fn mutate(random: &mut Random, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut data = corpus[random.below(corpus.len())].clone();
    for _ in 0..=random.below(6) {
        let at = random.below(data.len() + 1);
        let end = (at + random.below(32)).min(data.len());
        match random.below(8) {
            0 if at < data.len() => data[at] ^= 1 << random.below(8),
            1 if at < data.len() => data[at] = random.below(256) as u8,
            2 => drop(data.drain(at..end)),
            3 => {
                let piece = data[at..end].to_vec();
                for _ in 0..=random.below(64) {
                    data.splice(at..at, piece.iter().copied());
                }
            }
            4 => {
                let other = &corpus[random.below(corpus.len())];
                let from = random.below(other.len() + 1);
                data.splice(at.., other[from..].iter().copied());
            }
            5 => data.truncate(at),
            _ => drop(data.splice(at..at, TOKENS[random.below(TOKENS.len())].iter().copied())),
        }
    }
    data
}

fn attack(target: &Target, time: Duration, seed: u64) -> Result<usize, String> {
    let corpus = corpus(target);
    let mut random = Random(seed | 1);
    let end = Instant::now() + time;
    let mut runs = 0;
    let mut inputs = corpus.iter().cloned();
    while runs < corpus.len() || Instant::now() < end {
        let data = inputs.next().unwrap_or_else(|| mutate(&mut random, &corpus));
        let began = Instant::now();
        if std::panic::catch_unwind(|| (target.run)(&data)).is_err() {
            let file = std::env::temp_dir().join(format!("kybern-fuzz-{}-{seed}", target.name));
            let _ = std::fs::write(&file, &data);
            return Err(format!(
                "{} panics on {}: put it into fuzz/corpus when it is mended",
                target.name,
                file.display()
            ));
        }
        if began.elapsed() > Duration::from_secs(20) {
            return Err(format!("{} took {:?} for {} bytes", target.name, began.elapsed(), data.len()));
        }
        runs += 1;
    }
    Ok(runs)
}

#[test]
fn no_parser_dies_of_what_it_is_sent() {
    let time = Duration::from_millis(number("KYBERN_FUZZ_MILLIS", MILLIS));
    let seed = number("KYBERN_FUZZ_SEED", 1);
    let (next, failures) = (Mutex::new(TARGETS.iter()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let Some(target) = next.lock().unwrap().next() else { return };
                    // An overflowing stack ends the process: this line says in which target.
                    println!("{} (seed {seed})", target.name);
                    match attack(target, time, seed) {
                        Ok(runs) => println!("{}: {runs} runs", target.name),
                        Err(failure) => failures.lock().unwrap().push(failure),
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Each target has a program for libFuzzer, and each corpus a target.
#[test]
fn nothing_is_left_out() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz");
    let names = |directory: &str| -> Vec<String> {
        let entries = std::fs::read_dir(fuzz.join(directory)).unwrap();
        let mut names: Vec<String> =
            entries.map(|e| e.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    };
    let expect: Vec<&str> = TARGETS.iter().map(|t| t.name).collect();
    assert_eq!(names("fuzz_targets"), expect);
    assert_eq!(names("corpus"), expect);
    let manifest = std::fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
    for name in expect {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "fuzz/Cargo.toml lacks {name}");
    }
}
