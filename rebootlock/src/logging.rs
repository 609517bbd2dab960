//! Events to stderr: for people, for the journal, or as JSON.

use std::fmt;
use std::io::{self, IsTerminal as _};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::config::{ConfigError, LogFormat, LogSettings};

/// Sends this process's events to stderr. In the journal, each line begins with its level as
/// sd-daemon(3) has it, and the journal adds the time.
///
/// # Errors
/// [`ConfigError`] if the level cannot be understood.
pub fn start(settings: &LogSettings) -> Result<(), ConfigError> {
    let filter =
        filter(&settings.level).map_err(|problem| ConfigError::of_setting("log.level", problem))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let journal = std::env::var_os("JOURNAL_STREAM").is_some() && !io::stderr().is_terminal();
    let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let started = match settings.format {
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
        LogFormat::Text if journal => builder.with_ansi(false).event_format(Journal).try_init(),
        LogFormat::Text => builder.with_target(false).with_ansi(colour).try_init(),
    };
    // Only a second call fails, and then the first one's choice stands.
    drop(started);
    Ok(())
}

/// What is shown, or what is wrong with how that is said. A lone word must be a level: `tracing`
/// would take any other for the name of a module and show nothing else.
pub(crate) fn filter(level: &str) -> Result<EnvFilter, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let known = |word: &str| LEVELS.iter().any(|level| word.eq_ignore_ascii_case(level));
    let refused = || {
        format!(
            "{level:?} is no level; expected error, warn, info, debug, trace or off, or levels by \
             module as in \"info,rebootlock=debug\""
        )
    };
    let is_fine = |part: &str| {
        part.rsplit_once('=')
            .map_or(known(part), |(module, level)| !module.trim().is_empty() && known(level.trim()))
    };
    if !level.split(',').map(str::trim).all(is_fine) {
        return Err(refused());
    }
    EnvFilter::try_new(level).map_err(|_| refused())
}

/// `<6>message key=value`
struct Journal;

impl<S, N> FormatEvent<S, N> for Journal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let priority = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            _ => 7,
        };
        write!(writer, "<{priority}>")?;
        ctx.format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}
