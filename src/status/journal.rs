//! Logs: to the systemd journal with fields (`BUS=`, `DEVICE=`, `POINT=`, `UPLINK=`) when the
//! journal listens, else as readable text on standard error.

use std::fmt::{Debug, Write as _};

use systemd_journal_logger::JournalLog;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// Sends events to the journal, their fields as journal fields.
struct Journal(JournalLog);

/// An event's message and fields.
#[derive(Default)]
struct Collected {
    message: String,
    fields: Vec<(String, String)>,
}

impl Visit for Collected {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            // Writing to a String cannot fail.
            let _ = write!(self.message, "{value:?}");
        } else {
            self.fields.push((field.name().to_owned(), format!("{value:?}")));
        }
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
        } else {
            self.fields.push((field.name().to_owned(), value.to_owned()));
        }
    }
}

fn level(metadata: &Metadata<'_>) -> log::Level {
    match *metadata.level() {
        Level::ERROR => log::Level::Error,
        Level::WARN => log::Level::Warn,
        Level::INFO => log::Level::Info,
        Level::DEBUG => log::Level::Debug,
        Level::TRACE => log::Level::Trace,
    }
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut collected = Collected::default();
        event.record(&mut collected);
        let metadata = event.metadata();
        let mut record = log::Record::builder();
        record
            .level(level(metadata))
            .target(metadata.target())
            .module_path(metadata.module_path())
            .file(metadata.file())
            .line(metadata.line())
            .key_values(&collected.fields);
        // A journal that does not listen must not stop the gateway.
        let _ = self.0.journal_send(&record.args(format_args!("{}", collected.message)).build());
    }
}

/// What rumqttd says of the tickets that go through it is no news, and its spans cost more than they; when it
/// fails, the hub says so.
const QUIET: &str = "rumqttd=off";

/// Starts logging. `FIELDGATE_LOG` (`warn`, `fieldgate=debug`, …) goes before `default`.
pub fn start(default: &str) {
    let filter = std::env::var("FIELDGATE_LOG").unwrap_or_else(|_| format!("{default},{QUIET}"));
    let filter = EnvFilter::try_new(&filter).unwrap_or_else(|_| EnvFilter::new(default));
    let registry = tracing_subscriber::registry().with(filter);
    let journal = systemd_journal_logger::connected_to_journal().then(JournalLog::new);
    // A second start in one process (tests) keeps the first one's settings.
    let _ = match journal {
        Some(Ok(journal)) => {
            let journal = journal.with_syslog_identifier("fieldgate".to_owned());
            registry.with(Journal(journal)).try_init()
        }
        _ => {
            let text = tracing_subscriber::fmt::layer()
                .with_writer(std::io::stderr)
                .with_target(false)
                .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
            registry.with(text).try_init()
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Capture(std::sync::mpsc::SyncSender<(String, Vec<(String, String)>)>);

    impl<S: Subscriber> Layer<S> for Capture {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let mut collected = Collected::default();
            event.record(&mut collected);
            let _ = self.0.send((collected.message, collected.fields));
        }
    }

    #[test]
    fn fields_of_an_event_become_fields_of_the_journal() {
        let (send, receive) = std::sync::mpsc::sync_channel(crate::bounds::COMMANDS);
        let subscriber = tracing_subscriber::registry().with(Capture(send));
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(BUS = "rs485", DEVICE = "meter1", "no answer for {} s", 5);
        });
        let (message, fields) = receive.recv().expect("one event");
        assert_eq!(message, "no answer for 5 s");
        let field = |k: &str, v: &str| (k.to_owned(), v.to_owned());
        assert_eq!(fields, [field("BUS", "rs485"), field("DEVICE", "meter1")]);
    }
}
