//! Entries for journald in its native protocol (systemd, `docs/JOURNAL_NATIVE_PROTOCOL.md`): one datagram
//! for each, of fields with a name and a value.
//!
//! The message holds the values too, so that a line of `journalctl` says what happened to which thing.

use std::{
    fmt,
    io::{self, Write as _},
    os::unix::net::UnixDatagram,
    path::PathBuf,
    thread,
    time::Duration,
};

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    Layer,
    fmt::{
        FormatFields as _, MakeWriter,
        format::{DefaultFields, Writer},
    },
    layer::Context,
};

/// Where journald listens.
const SOCKET: &str = "/run/systemd/journal/socket";
/// A journald that is restarted is back within this.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(50);

/// journald. Each write is an entry; a journald that does not read blocks it.
pub(super) struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Journal {
    /// Looks for it.
    ///
    /// # Errors
    ///
    /// The system's, if nobody listens.
    pub(super) fn open() -> io::Result<Self> {
        Self::at(SOCKET.into())
    }

    fn at(path: PathBuf) -> io::Result<Self> {
        UnixDatagram::unbound()?.connect(&path)?;
        Ok(Self { socket: UnixDatagram::unbound()?, path })
    }
}

impl io::Write for Journal {
    fn write(&mut self, entry: &[u8]) -> io::Result<usize> {
        let mut waited = Duration::ZERO;
        loop {
            // By its path: the socket of one that was restarted is another one.
            match self.socket.send_to(entry, &self.path) {
                Err(error) if is_gone(&error) && waited < PATIENCE => {
                    thread::sleep(PAUSE);
                    waited += PAUSE;
                }
                sent => return sent,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound)
}

/// Makes an entry of each event.
pub(super) struct Entries<W>(pub(super) W);

impl<S, W> Layer<S> for Entries<W>
where
    S: Subscriber,
    W: for<'w> MakeWriter<'w> + 'static,
{
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut message = String::new();
        if DefaultFields::new().format_fields(Writer::new(&mut message), event).is_err() {
            message.push_str(" (a value cannot be shown)");
        }
        let of = event.metadata();
        let mut entry = Entry(Vec::with_capacity(512));
        entry.put("MESSAGE", &message);
        entry.put("PRIORITY", priority(*of.level()));
        entry.put("SYSLOG_IDENTIFIER", "hb");
        entry.put("TARGET", of.target());
        event.record(&mut entry);
        // What journald does not take is lost, as what any reader of a log does not take.
        drop(self.0.make_writer().write_all(&entry.0));
    }
}

/// The syslog priority of a level (RFC 5424, table 2): notice for what changes.
const fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "5",
        Level::DEBUG => "6",
        Level::TRACE => "7",
    }
}

/// Fields, each a name, a line feed, the length of the value (64 bits, little-endian), the value and a line
/// feed: so the value may have lines.
struct Entry(Vec<u8>);

impl Entry {
    fn put(&mut self, name: &str, value: &str) {
        self.0.extend_from_slice(name.as_bytes());
        self.0.push(b'\n');
        self.0.extend_from_slice(&(value.len() as u64).to_le_bytes());
        self.0.extend_from_slice(value.as_bytes());
        self.0.push(b'\n');
    }
}

impl Visit for Entry {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            return;
        }
        // Capital letters, digits and underscores.
        let name: String = field.name().chars().map(letter).collect();
        self.put(&format!("F_{name}"), value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

fn letter(letter: char) -> char {
    if letter.is_ascii_alphanumeric() { letter.to_ascii_uppercase() } else { '_' }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_write_is_an_entry_also_after_a_restart_of_the_reader() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        assert!(Journal::at(path.clone()).is_err());
        let reader = UnixDatagram::bind(&path).unwrap();
        let mut journal = Journal::at(path.clone()).unwrap();
        let mut received = [0; 64];
        journal.write_all(b"first").unwrap();
        assert_eq!(reader.recv(&mut received).unwrap(), 5);
        drop(reader);
        std::fs::remove_file(&path).unwrap();
        let later = thread::spawn(move || {
            thread::sleep(PAUSE);
            UnixDatagram::bind(&path).unwrap()
        });
        journal.write_all(b"the second").unwrap();
        assert_eq!(later.join().unwrap().recv(&mut received).unwrap(), 10);
        drop(directory);
        assert_eq!(journal.write(b"lost").unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
