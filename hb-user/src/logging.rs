//! Where events go: one line each, to standard error or to journald.
//!
//! Levels: per-packet matters are TRACE; a state change is INFO, one line with its cause, and the
//! line's time has microseconds; WARN is worth waking somebody. Values are fields, so that they can be
//! searched for; text, and what `journalctl` shows, has them behind the message.
//!
//! Lines are written by a thread of its own: a reader that hangs, journald too, or a full disk behind it,
//! must not stop the controller. Lines that do not fit are counted and left out.

mod journal;

use std::{fmt, io, str::FromStr};

use tracing::Subscriber;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{
    EnvFilter, Layer as _, Registry,
    fmt::{MakeWriter, time::SystemTime},
    layer::{Filter, SubscriberExt as _},
    reload,
    util::SubscriberInitExt as _,
};

use self::journal::{Entries, Journal};

/// How events are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people, on standard error: time (UTC, microseconds), level, message, fields.
    #[default]
    Text,
    /// One JSON object per line on standard error.
    Json,
    /// To journald: message and fields as a line, and each field as one of the journal; text if there is
    /// no journald.
    Journald,
}

impl FromStr for Format {
    type Err = LoggingError;

    fn from_str(name: &str) -> Result<Self, LoggingError> {
        match name {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            "journald" => Ok(Self::Journald),
            _ => Err(LoggingError::Format(name.to_owned())),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
            Self::Journald => "journald",
        })
    }
}

/// Why events cannot be written as configured.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// No such format.
    #[error("log format {0:?} is unknown: use text, json or journald")]
    Format(String),
    /// A part of the levels that would silence everything instead of doing what was meant.
    #[error(
        "log levels {levels:?}: {part:?} is no level: use off, error, warn, info, debug or trace, \
         or a target with one, as in hb_user::core=debug"
    )]
    Level {
        /// The levels as configured.
        levels: String,
        /// What is wrong with them.
        part: String,
    },
    /// Not the syntax of levels at all.
    #[error("log levels {levels:?} are malformed: write for example \"info,hb_user::core=debug\"")]
    Levels {
        /// The levels as configured.
        levels: String,
        /// Where the syntax ends.
        source: tracing_subscriber::filter::ParseError,
    },
    /// The log whose levels are to be changed has ended.
    #[error("there is no log any more whose levels could be changed")]
    Gone(#[source] reload::Error),
    /// Somebody else was first.
    #[error("logging was set up already: set it up once per process")]
    Twice(#[source] tracing_subscriber::util::TryInitError),
}

/// Parses levels as [`EnvFilter`] writes them: `info`, or `info,hb_user::core=debug`.
///
/// # Errors
/// If the syntax is wrong or a bare word is no level; the filter alone would take a misspelt level
/// for the name of a target and log nothing else.
pub fn parse_levels(levels: &str) -> Result<EnvFilter, LoggingError> {
    let bare = levels.split(',').filter(|part| !part.contains(['=', '[', ']']));
    for part in bare {
        if tracing::level_filters::LevelFilter::from_str(part).is_err() || part.is_empty() {
            let (levels, part) = (levels.to_owned(), part.to_owned());
            return Err(LoggingError::Level { levels, part });
        }
    }
    EnvFilter::builder()
        .parse(levels)
        .map_err(|source| LoggingError::Levels { levels: levels.to_owned(), source })
}

/// Lines that wait to be written, at most; each is some hundred bytes.
const WAITING_LINES: usize = 16_384;

/// The log of a process. Dropping it writes what waits, for at most a second.
#[derive(Debug)]
pub struct Log {
    _writer: WorkerGuard,
    lost: Lost,
    levels: Levels,
}

/// What changes the levels of a log that runs.
#[derive(Clone, Debug)]
pub struct Levels(reload::Handle<EnvFilter, Registry>);

impl Levels {
    /// Logs by other levels from now on.
    ///
    /// # Errors
    /// If `levels` is malformed, or there is no such log any more.
    pub fn set(&self, levels: &str) -> Result<(), LoggingError> {
        let filter = parse_levels(levels)?;
        self.0.reload(filter).map_err(LoggingError::Gone)
    }
}

impl Log {
    /// Returns what tells how many lines were left out.
    #[must_use]
    pub fn lost(&self) -> Lost {
        self.lost.clone()
    }

    /// Returns what changes its levels.
    #[must_use]
    pub fn levels(&self) -> Levels {
        self.levels.clone()
    }
}

/// How many lines of the log did not fit.
#[derive(Clone, Debug)]
pub struct Lost(ErrorCounter);

impl Lost {
    /// Returns their number since the start.
    #[must_use]
    pub fn lines(&self) -> usize {
        self.0.dropped_lines()
    }
}

/// Has a thread write to `writer`.
fn written_by_a_thread(
    writer: impl io::Write + Send + 'static,
    lines: usize,
) -> (NonBlocking, WorkerGuard, Lost) {
    let (lines, writer) = NonBlockingBuilder::default()
        .buffered_lines_limit(lines)
        .lossy(true)
        .thread_name("hb-log")
        .finish(writer);
    let lost = Lost(lines.error_counter());
    (lines, writer, lost)
}

/// Sends the events of this process to where they belong, until it ends; what waits to be written
/// then is written when the [`Log`] is dropped.
///
/// # Errors
/// If `levels` is malformed or this was called before.
pub fn init(format: Format, levels: &str) -> Result<Log, LoggingError> {
    let (filter, levels) = reload::Layer::new(parse_levels(levels)?);
    let journal = (format == Format::Journald).then(Journal::open);
    let (subscriber, guard, lost, warning) = begin(format, journal, filter, io::stderr());
    subscriber.try_init().map_err(LoggingError::Twice)?;
    if let Some(error) = warning {
        tracing::warn!(%error, "journald does not answer: logging text to standard error");
    }
    Ok(Log { _writer: guard, lost, levels: Levels(levels) })
}

type Events = Box<dyn Subscriber + Send + Sync>;

/// Begins to write: to the `journal`, if it is wanted and there, else to `other`. Returns why the journal
/// is not there as well.
fn begin<F>(
    format: Format,
    journal: Option<io::Result<Journal>>,
    filter: F,
    other: impl io::Write + Send + 'static,
) -> (Events, WorkerGuard, Lost, Option<io::Error>)
where
    F: Filter<Registry> + Send + Sync + 'static,
{
    match journal {
        Some(Ok(journal)) => {
            let (writer, guard, lost) = written_by_a_thread(journal, WAITING_LINES);
            (entries(filter, writer), guard, lost, None)
        }
        journal => {
            let (writer, guard, lost) = written_by_a_thread(other, WAITING_LINES);
            (lines(format, filter, writer), guard, lost, journal.and_then(Result::err))
        }
    }
}

fn entries<W, F>(filter: F, writer: W) -> Events
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
    F: Filter<Registry> + Send + Sync + 'static,
{
    Box::new(Registry::default().with(Entries(writer).with_filter(filter)))
}

fn lines<W, F>(format: Format, filter: F, writer: W) -> Events
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
    F: Filter<Registry> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(writer)
        .with_timer(SystemTime)
        .with_ansi(false)
        .with_target(false);
    match format {
        Format::Json => {
            Box::new(Registry::default().with(layer.json().flatten_event(true).with_filter(filter)))
        }
        Format::Text | Format::Journald => {
            Box::new(Registry::default().with(layer.with_filter(filter)))
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{
        collections::BTreeMap,
        sync::{Arc, Mutex, OnceLock},
    };

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Buffer {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    fn run<T>(make: impl FnOnce(Buffer) -> Events, work: impl FnOnce() -> T) -> (T, String) {
        // While only one subscriber exists, an event that another test meets first is judged by
        // that test's thread, which has none, and is then off for all: so there is always a second.
        static SECOND: OnceLock<tracing::Dispatch> = OnceLock::new();
        SECOND.get_or_init(|| lines(Format::Text, parse_levels("info").unwrap(), io::sink).into());
        let buffer = Buffer::default();
        let result = tracing::subscriber::with_default(make(buffer.clone()), work);
        (result, buffer.text())
    }

    fn writer(buffer: Buffer) -> impl for<'a> MakeWriter<'a> + Send + Sync + 'static {
        move || buffer.clone()
    }

    /// Returns what `work`, on this thread, wrote into the log as text.
    pub(crate) fn captured<T>(work: impl FnOnce() -> T) -> (T, String) {
        run(|buffer| lines(Format::Text, parse_levels("info").unwrap(), writer(buffer)), work)
    }

    #[test]
    fn a_state_change_is_one_line_with_time_level_message_and_fields() {
        let ((), log) = captured(|| {
            tracing::info!(peer = "b", cause = "silence", silence_us = 300, "peer dead");
            tracing::debug!("not asked for");
        });
        let (time, rest) = log.split_once(' ').unwrap();
        assert_eq!(time.len(), "2026-01-01T00:00:00.000000Z".len(), "{log}");
        let rest = rest.trim_start();
        assert_eq!(rest, "INFO peer dead peer=\"b\" cause=\"silence\" silence_us=300\n");
    }

    #[test]
    fn a_reader_that_hangs_stops_nobody_and_what_is_lost_is_counted() {
        const LINES: usize = 20_000;
        let (reader, writer) = io::pipe().unwrap();
        let (writer, log, lost) = written_by_a_thread(writer, 100);
        let filter = parse_levels("info").unwrap();
        // More than the pipe and the queue hold; it returns all the same.
        tracing::subscriber::with_default(lines(Format::Text, filter, writer), || {
            for line in 0..LINES {
                tracing::info!(line, "a line that nobody reads");
            }
        });
        let reading = std::thread::spawn(move || io::read_to_string(reader).unwrap());
        drop(log);
        let read = reading.join().unwrap();
        assert!(lost.lines() > 0);
        assert_eq!(read.lines().count() + lost.lines(), LINES);
        let first = read.lines().next().unwrap();
        assert!(first.ends_with("INFO a line that nobody reads line=0"), "{first}");
    }

    #[test]
    fn levels_can_be_changed_while_it_runs() {
        let (filter, levels) = reload::Layer::new(parse_levels("info").unwrap());
        let levels = Levels(levels);
        let ((), log) = run(
            |buffer| lines(Format::Text, filter, writer(buffer)),
            || {
                let say = |text| tracing::debug!(text, "a matter of detail");
                say("first");
                levels.set("debug").unwrap();
                say("second");
                levels.set("loud").unwrap_err();
                levels.set("warn").unwrap();
                say("third");
                tracing::info!("not asked for");
            },
        );
        assert_eq!(log.lines().count(), 1, "{log}");
        assert!(log.contains("second"), "{log}");
    }

    #[test]
    fn json_is_one_object_per_line() {
        let filter = parse_levels("warn,hb_user=info").unwrap();
        let ((), log) = run(
            |buffer| lines(Format::Json, filter, writer(buffer)),
            || tracing::info!(cause = "silence", "peer\ndead"),
        );
        assert_eq!(log.lines().count(), 1);
        let event: serde_json::Value = serde_json::from_str(&log).unwrap();
        assert_eq!(event["level"], "INFO");
        assert_eq!(event["message"], "peer\ndead");
        assert_eq!(event["cause"], "silence");
    }

    /// Takes an entry of the journal apart.
    fn fields(mut entry: &[u8]) -> BTreeMap<String, String> {
        let mut fields = BTreeMap::new();
        while !entry.is_empty() {
            let end = entry.iter().position(|&byte| byte == b'\n').unwrap();
            let (name, rest) = entry.split_at(end);
            let (length, rest) = rest[1..].split_first_chunk::<8>().unwrap();
            let (value, rest) = rest.split_at(u64::from_le_bytes(*length) as usize);
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            assert_eq!(fields.insert(text(name), text(value)), None);
            entry = rest.strip_prefix(b"\n").unwrap();
        }
        fields
    }

    #[test]
    fn an_entry_of_the_journal_stands_by_itself_and_has_fields() {
        let buffer = Buffer::default();
        let filter = parse_levels("info").unwrap();
        let other = buffer.clone();
        run(
            |_| entries(filter, writer(other)),
            || {
                let cause = "b died:\nsilence";
                tracing::info!(group = "web", silence_us = 300, %cause, "group");
                tracing::debug!("not asked for");
            },
        );
        let entry = buffer.0.lock().unwrap().clone();
        let fields = fields(&entry);
        assert_eq!(fields["MESSAGE"], "group group=\"web\" silence_us=300 cause=b died:\nsilence");
        assert_eq!(fields["F_GROUP"], "web");
        assert_eq!(fields["F_SILENCE_US"], "300");
        assert_eq!(fields["F_CAUSE"], "b died:\nsilence");
        assert_eq!(fields["PRIORITY"], "5");
        assert_eq!(fields["SYSLOG_IDENTIFIER"], "hb");
    }

    #[test]
    fn without_journald_it_is_text_and_the_reason_is_kept() {
        let missing = Some(Err(io::Error::from(io::ErrorKind::NotFound)));
        let buffer = Buffer::default();
        let filter = parse_levels("info").unwrap();
        let (events, guard, _, reason) = begin(Format::Journald, missing, filter, buffer.clone());
        run(|_| events, || tracing::info!("still here"));
        drop(guard);
        let log = buffer.text();
        assert!(log.ends_with("INFO still here\n"), "{log}");
        assert_eq!(reason.unwrap().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn levels_are_checked() {
        for good in ["info", "off", "WARN,hb_user::core=trace"] {
            parse_levels(good).unwrap_or_else(|error| panic!("{good}: {error}"));
        }
        for bad in
            ["debg", "", "info,", " info", "info,hb_user=loud", "info,[x", "verbose,hb_user=info"]
        {
            let error = parse_levels(bad).unwrap_err();
            assert!(error.to_string().contains(&format!("{bad:?}")), "{error}");
        }
    }

    #[test]
    fn formats_have_names() {
        for format in [Format::Text, Format::Json, Format::Journald] {
            assert_eq!(format.to_string().parse::<Format>().unwrap(), format);
        }
        let error = "xml".parse::<Format>().unwrap_err().to_string();
        assert_eq!(error, "log format \"xml\" is unknown: use text, json or journald");
    }
}
