//! Revocations on disk: a log that is only ever added to, and now and then written anew.
//!
//! The store is a folder with the file `revocations.log`: a line that names the format, then batches. A batch is a line
//! `batch <bytes> <checksum>` and, of that length, lines as every feed has them; a line with `"lifted":true` takes an
//! earlier one back. The checksum is the first 64 bits of the SHA-256 of those bytes. A second file, `lock`, keeps a second
//! process out.
//!
//! **What is synced.** A batch is written and synced before its sender is told that it is stored, and before the next one
//! is written. So a crash can spoil the last batch alone, and nobody was told that it is there.
//!
//! **What is read back.** A batch at the end that is cut off or has a wrong checksum, with nothing readable after it, is
//! what a crash leaves: it is cut off and said in the log. Anything else that cannot be read may have been a revocation;
//! the store is then refused as a whole, by the place of the damage, until an operator has taken the damage out (or the
//! file away).
//!
//! **Writing anew.** When the log has more than twice as many lines as there are revocations in force, these are written to
//! `revocations.new`, synced, and put in the log's place by one rename, which is synced too.
//!
//! Folder (where it is made here) and files are for the gateway's own user alone.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, BufWriter, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;

use super::record::{Entry, Record};

const FORMAT: &[u8] = b"sluice-revocations 1\n";

/// A batch is begun anew at this length, and is never longer than twice this.
const BATCH: usize = 1 << 20;

/// The longest head of a batch: `batch `, ten digits, a space, sixteen more, a line break.
const LONGEST_HEAD: usize = 40;

/// A log shorter than this is never written anew.
const SMALLEST_REWRITE: u64 = 1 << 20;

/// Why a store cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreFault {
    #[error("cannot {what} {path}: {cause}")]
    Io { what: &'static str, path: PathBuf, cause: io::Error },
    #[error("{0} is in use by another process")]
    InUse(PathBuf),
    #[error("{0} does not begin as a store of revocations does")]
    NotAStore(PathBuf),
    #[error("{path} is damaged at byte {at}: {why}")]
    Damaged { path: PathBuf, at: u64, why: String },
}

/// An open store.
#[derive(Debug)]
pub(crate) struct Store {
    folder: PathBuf,
    log: File,
    length: u64,
    lines: u64,
    _lock: File,
}

fn checksum(bytes: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA256, bytes);
    digest.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

impl Store {
    /// Opens the store in `folder`, making it where there is none, and hands each of its lines to `each`. Gives the bytes
    /// of a torn end that were cut off, too.
    pub(crate) fn open(folder: &Path, mut each: impl FnMut(Entry)) -> Result<(Self, u64), StoreFault> {
        let fault = |what, path: &Path| {
            let path = path.to_owned();
            move |cause| StoreFault::Io { what, path, cause }
        };
        if !folder.is_dir() {
            DirBuilder::new().mode(0o700).create(folder).map_err(fault("make", folder))?;
        }
        let lock_path = folder.join("lock");
        let lock = options().create(true).truncate(false).write(true).open(&lock_path);
        let lock = lock.map_err(fault("open", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(StoreFault::InUse(folder.to_owned())),
            Err(fs::TryLockError::Error(cause)) => return Err(fault("lock", &lock_path)(cause)),
        }

        let path = folder.join("revocations.log");
        // One that cannot be looked at may be there, and must not be replaced.
        if !path.try_exists().map_err(fault("look for", &path))? {
            replace_log(folder, |_| Ok(())).map_err(fault("make", &path))?;
        }
        let log = options().read(true).append(true).open(&path).map_err(fault("open", &path))?;
        let whole = log.metadata().map_err(fault("read", &path))?.len();
        let mut reading = Reading { path: &path, file: BufReader::with_capacity(1 << 16, &log), at: 0, whole };
        reading.format()?;
        let mut lines = 0;
        let mut counting = |entry| {
            lines += 1;
            each(entry);
        };
        while reading.batch(&mut counting)? {}
        let length = reading.at;
        if length < whole {
            log.set_len(length).and_then(|()| log.sync_all()).map_err(fault("mend", &path))?;
        }
        let store = Self { folder: folder.to_owned(), log, length, lines, _lock: lock };
        Ok((store, whole - length))
    }

    /// Adds whole lines, and returns when they are on the disk. After an error the log is only fit to be written anew.
    pub(crate) fn append(&mut self, lines: &str) -> io::Result<()> {
        let mut rest = lines.as_bytes();
        while !rest.is_empty() {
            let batch = batch_of(rest);
            rest = &rest[batch.len()..];
            let mut bytes = format!("batch {} {}\n", batch.len(), checksum(batch)).into_bytes();
            bytes.extend_from_slice(batch);
            self.log.write_all(&bytes)?;
            self.log.sync_data()?;
            self.length += bytes.len() as u64;
            self.lines += batch.iter().filter(|byte| **byte == b'\n').count() as u64;
        }
        Ok(())
    }

    /// Whether more than half of the log is about what is no longer in force, where `living` is.
    pub(crate) fn is_overgrown(&self, living: u64) -> bool {
        self.length > SMALLEST_REWRITE && self.lines > 2 * living
    }

    /// Writes the log anew, of the records that `all` hands out.
    pub(crate) fn rewrite(
        &mut self,
        all: impl FnOnce(&mut dyn FnMut(Record) -> io::Result<()>) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut count = 0;
        replace_log(&self.folder, |file| {
            let mut lines = String::new();
            let mut write = |lines: &mut String| {
                let batch = lines.as_bytes();
                writeln!(file, "batch {} {}", batch.len(), checksum(batch))?;
                file.write_all(batch)?;
                lines.clear();
                Ok(())
            };
            all(&mut |record| {
                record.write(&mut lines);
                count += 1;
                if lines.len() < BATCH { Ok(()) } else { write(&mut lines) }
            })?;
            if lines.is_empty() { Ok(()) } else { write(&mut lines) }
        })?;
        self.log = options().append(true).open(self.folder.join("revocations.log"))?;
        self.length = self.log.metadata()?.len();
        self.lines = count;
        Ok(())
    }

    /// Lets every write of the log fail as on a full disk.
    #[cfg(test)]
    pub(crate) fn spoil(&mut self) {
        self.log = options().append(true).open("/dev/full").unwrap();
    }

    /// Bytes of the log.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }
}

/// The lines at the beginning of `lines` that make one batch.
fn batch_of(lines: &[u8]) -> &[u8] {
    if lines.len() <= BATCH {
        return lines;
    }
    // Lines are far shorter than a batch, so there is an end within it.
    let end = lines[..BATCH].iter().rposition(|byte| *byte == b'\n').map_or(BATCH, |at| at + 1);
    &lines[..end]
}

/// Makes a new log by `fill` and puts it in the old one's place.
fn replace_log(folder: &Path, fill: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> io::Result<()> {
    let new = folder.join("revocations.new");
    let mut file = BufWriter::new(options().create(true).truncate(true).write(true).open(&new)?);
    file.write_all(FORMAT)?;
    fill(&mut file)?;
    file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    fs::rename(&new, folder.join("revocations.log"))?;
    // Else a crash could bring the old log back.
    File::open(folder)?.sync_all()
}

/// A log being read.
struct Reading<'l> {
    path: &'l Path,
    file: BufReader<&'l File>,
    /// Where the next batch begins.
    at: u64,
    whole: u64,
}

impl Reading<'_> {
    fn format(&mut self) -> Result<(), StoreFault> {
        let mut found = [0; FORMAT.len()];
        match self.file.read_exact(&mut found) {
            Ok(()) if found == *FORMAT => {}
            Err(cause) if cause.kind() != io::ErrorKind::UnexpectedEof => return Err(self.io(cause)),
            // The file is put in place whole, so a short one is not what a crash leaves.
            _ => return Err(StoreFault::NotAStore(self.path.to_owned())),
        }
        self.at = FORMAT.len() as u64;
        Ok(())
    }

    /// Reads one batch. False at the end, be it clean or torn.
    fn batch(&mut self, each: &mut impl FnMut(Entry)) -> Result<bool, StoreFault> {
        if self.at == self.whole {
            return Ok(false);
        }
        let Some((head, lines)) = intact(&mut self.file).map_err(|cause| self.io(cause))? else {
            return self.only_a_torn_end().map(|()| false);
        };
        for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            // The checksum is right, so this is no damage but another's hand, or another version's.
            each(Entry::parse(line).map_err(|why| self.damaged(format!("a line is not a revocation: {why}")))?);
        }
        self.at += (head + lines.len()) as u64;
        Ok(true)
    }

    /// Whether what begins here and cannot be read is what a crash leaves: no longer than one batch, and nothing readable
    /// after it.
    fn only_a_torn_end(&mut self) -> Result<(), StoreFault> {
        let left = self.whole - self.at;
        if left > (2 * BATCH + LONGEST_HEAD) as u64 {
            return Err(self.damaged(format!("a batch cannot be read, and {left} bytes follow")));
        }
        let mut rest = Vec::new();
        self.file
            .seek(SeekFrom::Start(self.at))
            .and_then(|_| self.file.read_to_end(&mut rest))
            .map_err(|cause| self.io(cause))?;
        for at in memchr::memmem::find_iter(&rest, b"batch ").filter(|at| *at > 0) {
            if intact(&mut &rest[at..]).is_ok_and(|found| found.is_some()) {
                return Err(self.damaged(format!("a batch cannot be read, and one that can follows {at} bytes later")));
            }
        }
        Ok(())
    }

    fn io(&self, cause: io::Error) -> StoreFault {
        StoreFault::Io { what: "read", path: self.path.to_owned(), cause }
    }

    fn damaged(&self, why: String) -> StoreFault {
        StoreFault::Damaged { path: self.path.to_owned(), at: self.at, why }
    }
}

/// The batch that begins here, as the length of its head and its lines, if it is whole and its checksum is right.
fn intact(from: &mut impl io::BufRead) -> io::Result<Option<(usize, Vec<u8>)>> {
    let mut head = Vec::with_capacity(LONGEST_HEAD);
    from.by_ref().take(LONGEST_HEAD as u64).read_until(b'\n', &mut head)?;
    let parts = head.strip_suffix(b"\n").and_then(|head| std::str::from_utf8(head).ok());
    let parts = parts.and_then(|head| head.strip_prefix("batch ")).and_then(|rest| rest.split_once(' '));
    let Some((length, wanted)) = parts else { return Ok(None) };
    let Some(length) = length.parse::<usize>().ok().filter(|length| *length <= 2 * BATCH) else { return Ok(None) };
    let mut lines = Vec::with_capacity(length);
    from.by_ref().take(length as u64).read_to_end(&mut lines)?;
    let whole = lines.len() == length && checksum(&lines) == wanted;
    Ok(whole.then_some((head.len(), lines)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn line(jti: &str) -> String {
        format!("{{\"issuer\":\"corp\",\"jti\":\"{jti}\",\"expires_at\":1790000000}}\n")
    }

    fn read(folder: &Path) -> Result<(Vec<String>, u64), StoreFault> {
        let mut seen = Vec::new();
        let opened = Store::open(folder, |entry| match entry {
            Entry::Revoked(record) => seen.push(record.target.value),
            Entry::Lifted(target) => seen.push(format!("-{}", target.value)),
        });
        opened.map(|(_, torn)| (seen, torn))
    }

    /// A store of three batches, and where each begins.
    fn three(folder: &Path) -> Vec<u64> {
        let (mut store, torn) = Store::open(folder, |_| {}).unwrap();
        assert_eq!(torn, 0);
        let mut begins = Vec::new();
        for lines in [line("a"), line("b") + &line("c"), line("d") + &line("e") + &line("f")] {
            begins.push(store.length());
            store.append(&lines).unwrap();
        }
        begins
    }

    #[test]
    fn what_was_stored_is_read_back_and_nobody_else_may_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        three(&state);
        assert_eq!(read(&state).unwrap(), (["a", "b", "c", "d", "e", "f"].map(String::from).into(), 0));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&state), mode(&state.join("revocations.log"))), (0o700, 0o600));
    }

    #[test]
    fn a_crash_at_any_byte_of_the_last_batch_costs_that_batch_alone() {
        let folder = tempfile::tempdir().unwrap();
        let last = *three(folder.path()).last().unwrap();
        let path = folder.path().join("revocations.log");
        let whole = fs::read(&path).unwrap();
        let last = usize::try_from(last).unwrap();
        for end in last..whole.len() {
            // Cut off; and as a file system leaves it that had extended the file and not yet written it.
            for tail in [0, whole.len() - end] {
                let mut torn = whole[..end].to_vec();
                torn.resize(end + tail, 0);
                fs::write(&path, &torn).unwrap();
                let (seen, lost) = read(folder.path()).unwrap();
                assert_eq!((seen.len(), lost), (3, (torn.len() - last) as u64), "cut at {end}, {tail} zeroes");
                // It is mended: what is added now is read back after the next start.
                let (mut store, _) = Store::open(folder.path(), |_| {}).unwrap();
                store.append(&line("g")).unwrap();
                drop(store);
                assert_eq!(read(folder.path()).unwrap().0, ["a", "b", "c", "g"]);
            }
        }
    }

    #[test]
    fn damage_before_the_end_is_named_by_its_place_and_refused() {
        let folder = tempfile::tempdir().unwrap();
        let begins = three(folder.path());
        let path = folder.path().join("revocations.log");
        let whole = fs::read(&path).unwrap();
        let last = usize::try_from(begins[2]).unwrap();
        for at in 0..last {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            fs::write(&path, &damaged).unwrap();
            let batch = begins.iter().rev().find(|begin| **begin <= at as u64);
            match (read(folder.path()).unwrap_err(), batch) {
                (StoreFault::NotAStore(_), None) => {}
                (StoreFault::Damaged { at: told, .. }, Some(begin)) => assert_eq!(told, *begin, "spoilt at {at}"),
                (other, _) => assert_eq!(other.to_string(), "", "spoilt at {at}"),
            }
            assert_eq!(fs::read(&path).unwrap(), damaged, "what is refused is left as it is");
        }
    }

    #[test]
    fn a_log_that_cannot_be_looked_at_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("revocations.log");
        // A link to itself: no rights are needed to see that it fails, and there is no file behind it.
        std::os::unix::fs::symlink(&log, &log).unwrap();
        assert!(matches!(read(folder.path()), Err(StoreFault::Io { .. })));
        assert!(log.is_symlink(), "it is as it was");
    }

    #[test]
    fn a_second_process_is_kept_out() {
        let folder = tempfile::tempdir().unwrap();
        let first = Store::open(folder.path(), |_| {}).unwrap();
        assert!(matches!(Store::open(folder.path(), |_| {}), Err(StoreFault::InUse(_))));
        drop(first);
        assert!(Store::open(folder.path(), |_| {}).is_ok());
    }

    #[test]
    fn a_log_written_anew_holds_what_it_was_given_and_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let (mut store, _) = Store::open(folder.path(), |_| {}).unwrap();
        let lines: String = (0..20_000).map(|i| line(&format!("{i}"))).collect();
        store.append(&lines).unwrap();
        assert!(store.is_overgrown(9_999) && !store.is_overgrown(10_000));
        // Left by a crash amid an earlier attempt.
        fs::write(folder.path().join("revocations.new"), "half").unwrap();
        let records: Vec<Record> =
            lines.lines().take(15_000).map(|line| Record::parse(line.as_bytes()).unwrap()).collect();
        store.rewrite(|each| records.into_iter().try_for_each(each)).unwrap();
        assert!(!store.is_overgrown(15_000));
        store.append(&line("after")).unwrap();
        drop(store);
        let (seen, torn) = read(folder.path()).unwrap();
        assert_eq!((seen.len(), torn, seen.last().map(String::as_str)), (15_001, 0, Some("after")));
    }

    #[test]
    fn hostile_files_are_refused_and_never_panic() {
        for bytes in [&b""[..], b"sluice-revocations 2\n", b"\0\0\0\0", b"{}"] {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join("revocations.log"), bytes).unwrap();
            assert!(matches!(read(folder.path()), Err(StoreFault::NotAStore(_))));
        }
        for tail in ["batch 99999999999999999999 0\n", "batch -1 0\n", "batch 4294967296 0000000000000000\nx", "batch"]
        {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join("revocations.log"), [FORMAT, tail.as_bytes()].concat()).unwrap();
            assert_eq!(read(folder.path()).unwrap().0.len(), 0);
        }
        // A right checksum over what is no revocation is no crash.
        let folder = tempfile::tempdir().unwrap();
        let batch = format!("batch 3 {}\n{{}}\n", checksum(b"{}\n"));
        fs::write(folder.path().join("revocations.log"), [FORMAT, batch.as_bytes()].concat()).unwrap();
        assert!(matches!(read(folder.path()), Err(StoreFault::Damaged { .. })));
    }
}
