//! The file: a line that says what it is, the header as a line of JSON, then entries, each with its length before it.
//!
//! Invariants: a record never grows beyond its bound; it stops at the last entry that fits and says so. A file whose end was cut off (the kernel
//! died) is read up to there.

use crate::{Entry, Header};
use std::{
    fs::{File, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// The first line.
const MAGIC: &[u8] = b"pintle record 1\n";
/// What a record may hold unless said otherwise, in bytes.
pub const BYTES_DEFAULT: u64 = 64 << 20;
/// What a record may be allowed to hold, in bytes.
pub const BYTES_MAX: u64 = 4 << 30;
/// The longest entry that is read: both messages at their largest, and some.
const ENTRY_BYTES_MAX: usize = 64 << 20;
/// What is said is written in blocks of about this many bytes: so few calls wait for one that the slowest hundredth does not tell.
const BLOCK_BYTES: usize = 1 << 20;
/// What was said must be in the file after this long, for whoever looks at it meanwhile.
const FLUSH_AFTER: Duration = Duration::from_millis(200);

/// What can be wrong with a record.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file cannot be used.
    #[error("{}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It is no record, or not one that is whole where it must be.
    #[error("not a record: {0}")]
    Malformed(String),
}

/// Writes a record.
#[derive(Debug)]
pub struct Recorder {
    path: PathBuf,
    file: File,
    /// What is not in the file yet.
    block: Vec<u8>,
    flushed: Instant,
    bytes: u64,
    bytes_max: u64,
    calls: u64,
    ended: Option<String>,
}

impl Recorder {
    /// A new file of mode 0600 (what modules are shown may be secret), replacing one of that name.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn create(path: &Path, header: &Header, bytes_max: u64) -> Result<Self, RecordError> {
        let io = |source| RecordError::Io { path: path.to_owned(), source };
        let _ = std::fs::remove_file(path);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(io)?;
        let mut block = MAGIC.to_vec();
        serde_json::to_writer(&mut block, header).map_err(|e| RecordError::Malformed(e.to_string()))?;
        block.push(b'\n');
        file.write_all(&block).map_err(io)?;
        let (bytes, path, bytes_max) = (block.len() as u64, path.to_owned(), bytes_max.min(BYTES_MAX));
        block.clear();
        Ok(Self { path, file, block, flushed: Instant::now(), bytes, bytes_max, calls: 0, ended: None })
    }

    /// Adds an entry, unless the record has ended.
    pub fn add(&mut self, entry: &Entry) {
        if self.ended.is_some() {
            return;
        }
        let begin = self.block.len();
        self.block.extend([0; 8]);
        entry.write(&mut self.block);
        let weight = (self.block.len() - begin) as u64;
        if self.bytes + weight > self.bytes_max {
            self.block.truncate(begin);
            self.end(format!("full: {} of {} bytes", self.bytes, self.bytes_max));
            return;
        }
        self.block[begin..begin + 8].copy_from_slice(&(weight - 8).to_le_bytes());
        self.bytes += weight;
        self.calls += u64::from(matches!(entry.step, crate::Step::Call { .. }));
        if self.block.len() >= BLOCK_BYTES || self.flushed.elapsed() >= FLUSH_AFTER {
            self.flush();
        }
    }

    /// Puts what was said into the file.
    pub fn flush(&mut self) {
        self.flushed = Instant::now();
        if let Err(error) = self.file.write_all(&self.block) {
            self.ended = Some(error.to_string());
        }
        self.block.clear();
    }

    fn end(&mut self, why: String) {
        self.flush();
        self.ended = Some(why);
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Calls in it so far.
    pub fn calls(&self) -> u64 {
        self.calls
    }

    /// Its size in bytes so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Why nothing is added any more, if so.
    pub fn ended(&self) -> Option<&str> {
        self.ended.as_deref()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.flush();
    }
}

/// A record's header and entries. An end that was cut off is left out.
///
/// # Errors
/// The file cannot be read, or is no record.
pub fn read(path: &Path) -> Result<(Header, Vec<Entry>), RecordError> {
    let bytes = std::fs::read(path).map_err(|source| RecordError::Io { path: path.to_owned(), source })?;
    parse(&bytes)
}

/// The same from its bytes.
pub(crate) fn parse(bytes: &[u8]) -> Result<(Header, Vec<Entry>), RecordError> {
    let malformed = |why: &str| RecordError::Malformed(why.to_owned());
    let rest = bytes.strip_prefix(MAGIC).ok_or_else(|| malformed("it does not begin as one"))?;
    let end = rest.iter().position(|byte| *byte == b'\n').ok_or_else(|| malformed("its header does not end"))?;
    let header = serde_json::from_slice(&rest[..end]).map_err(|e| RecordError::Malformed(format!("its header: {e}")))?;
    let (mut rest, mut entries) = (&rest[end + 1..], Vec::new());
    while let Some((length, after)) = rest.split_first_chunk::<8>() {
        let length = usize::try_from(u64::from_le_bytes(*length)).ok().filter(|length| *length <= ENTRY_BYTES_MAX);
        let length = length.ok_or_else(|| malformed("an entry is too long"))?;
        let Some((entry, after)) = after.split_at_checked(length) else { break };
        entries.push(Entry::read(entry)?);
        rest = after;
    }
    Ok((header, entries))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Outcome, Step};

    fn header() -> Header {
        Header { module: "m".into(), kind: "admission".into(), digest: "sha256:0".into(), call_milliseconds: 50, memory_bytes: 1 << 20 }
    }

    fn call(outcome: Outcome) -> Entry {
        let step = Step::Call { interface: 7, method: 2, params: vec![1, 2, 3], outcome };
        Entry { at_millis: 12, generation: 3, step }
    }

    fn entries() -> Vec<Entry> {
        let start = Entry { at_millis: 11, generation: 3, step: Step::Start { hello: vec![9; 40] } };
        vec![start, call(Outcome::Answer(vec![4])), call(Outcome::Error("no".into())), call(Outcome::Fault("trap: x".into()))]
    }

    fn recorded(name: &str, bytes_max: u64) -> (PathBuf, Recorder) {
        let path = std::env::temp_dir().join(format!("pintle-record-{}-{name}", std::process::id()));
        let mut recorder = Recorder::create(&path, &header(), bytes_max).expect("created");
        entries().iter().for_each(|entry| recorder.add(entry));
        recorder.flush();
        (path, recorder)
    }

    #[test]
    fn what_was_written_is_read_again_and_by_nobody_else() {
        use std::os::unix::fs::PermissionsExt as _;
        let (path, recorder) = recorded("whole", BYTES_DEFAULT);
        let (read_header, read_entries) = read(&path).expect("a record");
        assert_eq!((read_header, read_entries), (header(), entries()));
        assert_eq!((recorder.calls(), recorder.ended()), (3, None));
        let file = std::fs::metadata(&path).expect("there");
        assert_eq!((file.len(), file.permissions().mode() & 0o777), (recorder.bytes(), 0o600));
        std::fs::remove_file(path).expect("removed");
    }

    #[test]
    fn a_record_stops_at_its_bound_and_says_so() {
        let (path, recorder) = recorded("bound", 260);
        let (_, kept) = read(&path).expect("a record");
        assert!(!kept.is_empty() && kept.len() < 4 && kept[..] == entries()[..kept.len()], "{kept:?}");
        assert!(recorder.bytes() <= 260 && recorder.ended().is_some_and(|why| why.starts_with("full")), "{recorder:?}");
        std::fs::remove_file(path).expect("removed");
    }

    #[test]
    fn an_end_that_was_cut_off_is_left_out_and_damage_is_an_error() {
        let (path, _) = recorded("cut", BYTES_DEFAULT);
        let whole = std::fs::read(&path).expect("there");
        for length in 0..whole.len() {
            if let Ok((_, kept)) = parse(&whole[..length]) {
                assert_eq!(kept[..], entries()[..kept.len()]);
            }
        }
        assert_eq!(parse(&whole[..whole.len() - 1]).expect("a record").1.len(), 3);
        assert!(parse(b"pintle record 2\n{}\n").is_err());
        let mut long = whole;
        long.extend([0xff; 9]);
        assert!(parse(&long).is_err());
        std::fs::remove_file(path).expect("removed");
    }
}
