//! How far something long is: a bar that is drawn over itself on a terminal, now and then a line otherwise.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use tokio::time::Instant;

use super::output;
use crate::admin::migrate::{Progress, Step};
use crate::store::transfer::Kind;

/// How often the bar is drawn, and how often a line is written where there is no terminal.
const REDRAW: Duration = Duration::from_millis(100);
const LINE: Duration = Duration::from_secs(10);

/// Columns of the bar itself.
const WIDTH: u64 = 24;

/// How far it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    /// What is being done, in a word of at most nine letters: another word is another step.
    pub(super) verb: &'static str,
    pub(super) done: u64,
    /// `None`: not known yet.
    pub(super) total: Option<u64>,
    /// Of what.
    pub(super) things: Things,
}

/// What is counted.
#[derive(Clone, Copy, Debug)]
pub(super) enum Things {
    Kind(Kind),
    Named(&'static str),
    /// Nothing is.
    Uncounted(&'static str),
}

impl From<Progress> for Line {
    fn from(Progress { step, kind, done, total }: Progress) -> Self {
        let (verb, things) = match step {
            Step::Count => ("counting", Things::Kind(kind)),
            Step::Discard => ("removing", Things::Uncounted("what an earlier attempt left")),
            Step::Carry => ("carrying", Things::Kind(kind)),
            Step::Compare => ("comparing", Things::Kind(kind)),
        };
        Self { verb, done, total, things }
    }
}

/// Shows progress on standard error.
#[derive(Debug)]
pub(super) struct Meter {
    terminal: bool,
    step: Option<(&'static str, Instant)>,
    shown: Option<Instant>,
    /// What the bar shows, or would.
    last: Option<Line>,
}

impl Meter {
    /// For whoever reads standard error.
    pub(super) fn new() -> Self {
        Self { terminal: io::stderr().is_terminal(), step: None, shown: None, last: None }
    }

    /// Shows how far it is, unless that was shown a moment ago.
    pub(super) fn show(&mut self, progress: impl Into<Line>) {
        let (now, progress) = (Instant::now(), progress.into());
        if self.step.is_none_or(|(step, _)| step != progress.verb) {
            self.end();
            self.step = Some((progress.verb, now));
            self.shown = None;
        }
        self.last = Some(progress);
        let pause = if self.terminal { REDRAW } else { LINE };
        if self.shown.is_none_or(|shown| now - shown >= pause) {
            self.shown = Some(now);
            self.draw();
        }
    }

    /// Shows the last state of a step, and leaves the line.
    pub(super) fn end(&mut self) {
        self.draw();
        if self.terminal && self.last.is_some() {
            // There is nowhere left to complain.
            writeln!(io::stderr().lock()).ok();
        }
        (self.step, self.last) = (None, None);
    }

    fn draw(&self) {
        let (Some(progress), Some((_, began))) = (self.last, self.step) else { return };
        let text = render(progress, began.elapsed());
        if self.terminal {
            // Back to the first column; what was longer before is cleared.
            let mut out = io::stderr().lock();
            write!(out, "\r{text}\x1b[K").ok();
            out.flush().ok();
        } else {
            output::note(&text);
        }
    }
}

/// One line, narrower than a terminal.
fn render(line: Line, took: Duration) -> String {
    let Line { verb, done, total, things } = line;
    let things = match things {
        Things::Kind(kind) => kind.to_string(),
        Things::Named(name) => name.to_owned(),
        Things::Uncounted(what) => return format!("{verb:9} {what}"),
    };
    let bar = total.filter(|total| *total > 0).map_or_else(String::new, |total| {
        let part = |of: u64| u64::try_from(u128::from(done.min(total)) * u128::from(of) / u128::from(total)).unwrap_or(of);
        let filled = part(WIDTH);
        let bar: String = (0..WIDTH).map(|column| if column < filled { '#' } else { '.' }).collect();
        format!("[{bar}] {:3}%  ", part(100))
    });
    let of = total.map_or_else(String::new, |total| format!(" of {}", number(total)));
    let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    // Too early to tell otherwise.
    let rate = if millis < 500 { String::new() } else { format!("  {}/s", number(done.saturating_mul(1000) / millis)) };
    format!("{verb:9} {bar}{}{of}{rate}  {things}", number(done))
}

/// With a comma after each three digits.
pub(super) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!([0, 999, 1000, 1_234_567].map(number), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn a_line_says_how_far_it_is() {
        let at = |done, total| Line::from(Progress { step: Step::Carry, kind: Kind::Session, done, total });
        assert_eq!(
            render(at(500, Some(1000)), Duration::from_secs(2)),
            "carrying  [############............]  50%  500 of 1,000  250/s  sessions"
        );
        assert_eq!(render(at(0, Some(0)), Duration::ZERO), "carrying  0 of 0  sessions");
        let counting = Progress { step: Step::Count, kind: Kind::AuditEvent, done: 7, total: None };
        assert_eq!(render(counting.into(), Duration::ZERO), "counting  7  audit events");
        let widest = Line { things: Things::Kind(Kind::RetiredAddress), ..at(999_999_999, Some(999_999_999)) };
        assert!(render(widest, Duration::from_secs(1)).len() < 120);
        let discarding = Progress { step: Step::Discard, kind: Kind::Meta, done: 0, total: None };
        assert_eq!(render(discarding.into(), Duration::ZERO), "removing  what an earlier attempt left");
        // More than there are is no reason to fall over.
        assert!(render(at(3, Some(2)), Duration::ZERO).contains("100%"));
    }
}
