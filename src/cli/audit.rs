//! `nullpass audit`: what happened, and whether the log of it is whole.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};

use super::progress::number;
use super::state::{self, State};
use super::table::{self, Table, harmless};
use super::{Failure, OnState, output};
use crate::admin::audit::{AuditAnswer, AuditCommand, ChainRow, EntryRow, EventRow, Filter};
use crate::admin::command::{Answer, Command, Who};
use crate::auth::chain::Verified;
use crate::clock::{Clock, Timestamp};
use crate::config;
use crate::model::{Action, EventId, Outcome};
use crate::store::chain::{Fault, Walk, WriterId};

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// List what happened, newest first
    List {
        #[command(flatten)]
        which: Which,
        /// At most so many
        #[arg(long, value_name = "N")]
        limit: Option<u64>,
        /// For programs: JSON lines
        #[arg(long)]
        json: bool,
    },
    /// Print the log as JSON lines, oldest first in each chain, with the links and the heads of the chains
    Export {
        #[command(flatten)]
        which: Which,
        /// Only the heads, to be kept elsewhere for `verify --against`
        #[arg(long, conflicts_with_all = ["since", "user", "event"])]
        heads: bool,
        /// JSON lines, as without it
        #[arg(long)]
        json: bool,
    },
    /// Prove that no event was removed, changed, moved or put in: exit 0 when so, 1 when not
    Verify {
        /// A file that `export` wrote earlier: also prove that nothing was cut off or rewritten since
        #[arg(long, value_name = "HEADFILE")]
        against: Option<PathBuf>,
        /// For programs
        #[arg(long)]
        json: bool,
    },
}

/// The events that are meant.
#[derive(Debug, Args)]
pub(super) struct Which {
    /// Only since then: 24h, 7d, 2026-01-31 (UTC) or 2026-01-31T12:00:00+01:00
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<Since>,
    /// Only about this account; one that was deleted is named by its id
    #[arg(long, value_name = "EMAIL")]
    user: Option<Who>,
    /// Only this action, by its name in the log
    #[arg(long = "action", value_name = "ACTION", value_parser = action)]
    event: Option<Action>,
}

/// A moment as people name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Since {
    At(Timestamp),
    Ago(Duration),
}

fn since(text: &str) -> Result<Since, String> {
    let date = || Timestamp::parse(&format!("{text}T00:00:00Z"));
    if let Some(at) = Timestamp::parse(text).or_else(date) {
        return Ok(Since::At(at));
    }
    let wrong = |_| "must be a time such as 2026-01-31T12:00:00Z, a date such as 2026-01-31, or how long ago, such as 24h or 7d".to_owned();
    config::parse_duration(text).map(Since::Ago).map_err(wrong)
}

fn action(text: &str) -> Result<Action, String> {
    text.to_ascii_uppercase().parse().map_err(|_| {
        let known: Vec<&str> = Action::ALL.iter().map(|action| action.as_str()).collect();
        format!("is no action: there are {}", known.join(", "))
    })
}

impl Which {
    fn filter(self) -> Filter {
        let since = self.since.map(|since| match since {
            Since::At(at) => at,
            Since::Ago(ago) => Clock::system().now().minus(ago),
        });
        Filter { who: self.user, action: self.event, since }
    }
}

pub(super) fn run(arguments: OnState<Verb>) -> Result<(), Failure> {
    // Before anything is opened: a file that can't be read is wrong usage.
    let heads = match &arguments.action {
        Verb::Verify { against: Some(file), .. } => read_heads(file)?,
        Verb::Verify { against: None, .. } | Verb::List { .. } | Verb::Export { .. } => BTreeMap::new(),
    };
    state::with(&arguments.file, |state| match arguments.action {
        Verb::List { which, limit, json } => list(state, &which.filter(), limit.unwrap_or(u64::MAX), json),
        Verb::Export { which, heads, json: _ } => export(state, &which.filter(), heads),
        Verb::Verify { against: _, json } => verify(state, &heads, json),
    })
}

fn ask(state: &mut State, command: AuditCommand) -> Result<AuditAnswer, Failure> {
    let Answer::Audit(answer) = state.ask(Command::Audit(command))? else { return Err(state::unexpected()) };
    Ok(answer)
}

fn chains(state: &mut State) -> Result<Vec<ChainRow>, Failure> {
    let AuditAnswer::Chains(chains) = ask(state, AuditCommand::Chains)? else { return Err(state::unexpected()) };
    Ok(chains)
}

/// A page at a time, as it comes: the log may be larger than memory.
fn list(state: &mut State, filter: &Filter, limit: u64, json: bool) -> Result<(), Failure> {
    let (mut left, mut before) = (limit, None);
    if !json {
        output::line(&row(&["TIME", "RESULT", "ACTION", "ACCOUNT", "ADDRESS", "BY", "DETAILS"].map(str::to_owned)))?;
    }
    while left > 0 {
        let command = AuditCommand::List { filter: filter.clone(), before };
        let AuditAnswer::Events { events, next } = ask(state, command)? else { return Err(state::unexpected()) };
        let mut page = String::new();
        for event in events.iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
            page.push_str(&if json { json_line(event)? } else { shown(event) });
            page.push('\n');
        }
        output::text(&page)?;
        left = left.saturating_sub(u64::try_from(events.len()).unwrap_or(u64::MAX));
        before = next;
        if before.is_none() {
            break;
        }
    }
    Ok(())
}

fn shown(event: &EventRow) -> String {
    let mut details: Vec<String> = event.details.iter().map(|(key, value)| format!("{key}={value}")).collect();
    details.extend(event.user_agent.as_ref().map(|browser| format!("browser={browser}")));
    let account = event.email.as_ref().map(ToString::to_string).or_else(|| event.user.map(|user| user.to_string()));
    row(&[
        table::time(&event.at),
        match event.outcome {
            Outcome::Success => "done".to_owned(),
            Outcome::Failure => "refused".to_owned(),
        },
        event.action.to_string(),
        account.unwrap_or_default(),
        event.ip.clone().unwrap_or_default(),
        event.actor.clone().unwrap_or_default(),
        details.join(" "),
    ])
}

/// Columns that are wide enough for what is usual: rows are shown before the widest one is known.
fn row(cells: &[String; 7]) -> String {
    const WIDTHS: [usize; 7] = [20, 7, 21, 28, 15, 6, 0];
    let mut line = String::new();
    for (cell, width) in cells.iter().zip(WIDTHS) {
        let cell = if cell.is_empty() { "-".to_owned() } else { harmless(cell) };
        let gap = width.saturating_sub(cell.chars().count()) + 2;
        line.push_str(&cell);
        line.extend(std::iter::repeat_n(' ', gap));
    }
    line.trim_end().to_owned()
}

/// One line of JSON, in which a terminal finds nothing to obey: what JSON leaves as it is and a terminal does not is
/// written as an escape.
fn json_line(value: &impl Serialize) -> Result<String, Failure> {
    let text = serde_json::to_string(value).map_err(|error| Failure::failed(&error))?;
    Ok(escaped(&text))
}

fn escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if table::is_odd(c) {
            // Writing to a string does not fail.
            write!(text, "\\u{:04x}", u32::from(c)).ok();
        } else {
            text.push(c);
        }
    }
    text
}

/// A line that stands for a chain or for its head.
#[derive(Debug, Serialize, Deserialize)]
struct HeadLine {
    r#type: String,
    writer: WriterId,
    #[serde(flatten)]
    at: Walk,
    time: String,
}

fn export(state: &mut State, filter: &Filter, only_heads: bool) -> Result<(), Failure> {
    // What is written meanwhile comes after these heads, and is not in this export.
    let chains = chains(state)?;
    if !only_heads {
        for chain in &chains {
            export_chain(state, chain, filter)?;
        }
    }
    for chain in &chains {
        let head = HeadLine { r#type: "head".to_owned(), writer: chain.writer, at: chain.head.at, time: chain.head.time.clone() };
        output::line(&json_line(&head)?)?;
    }
    Ok(())
}

fn export_chain(state: &mut State, chain: &ChainRow, filter: &Filter) -> Result<(), Failure> {
    let base = HeadLine { r#type: "base".to_owned(), writer: chain.writer, at: chain.base.at, time: chain.base.time.clone() };
    output::line(&json_line(&base)?)?;
    let mut after = chain.base.at.seq;
    while after < chain.head.at.seq {
        let command = AuditCommand::Entries { writer: chain.writer, after, filter: filter.clone() };
        let AuditAnswer::Entries { entries, last } = ask(state, command)? else { return Err(state::unexpected()) };
        let mut page = String::new();
        for entry in entries.iter().filter(|entry| entry.at.seq <= chain.head.at.seq) {
            page.push_str(&event_line(chain.writer, entry)?);
            page.push('\n');
        }
        output::text(&page)?;
        let Some(last) = last else { break };
        after = last;
    }
    Ok(())
}

/// The record is put in as it is: nothing of it is lost, whatever release wrote it.
fn event_line(writer: WriterId, entry: &EntryRow) -> Result<String, Failure> {
    let link = serde_json::to_string(&entry.at.link).map_err(|error| Failure::failed(&error))?;
    let EntryRow { at, time, record } = entry;
    Ok(escaped(&format!(r#"{{"type":"event","writer":{writer},"seq":{},"link":{link},"time":"{time}","record":{record}}}"#, at.seq)))
}

/// The newest head of each chain in a file that `export` wrote.
fn read_heads(file: &Path) -> Result<BTreeMap<WriterId, Walk>, Failure> {
    let wrong = |why: &dyn std::fmt::Display| Failure::Usage(format!("--against {}: {why}", file.display()));
    let text = std::fs::read_to_string(file).map_err(|error| wrong(&error))?;
    let mut heads: BTreeMap<WriterId, Walk> = BTreeMap::new();
    for (line, at) in text.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty()) {
        let value: serde_json::Value = serde_json::from_str(line).map_err(|_| wrong(&format!("line {at} is not JSON")))?;
        if value.get("type").and_then(serde_json::Value::as_str) != Some("head") {
            continue;
        }
        let head: HeadLine = serde_json::from_value(value).map_err(|_| wrong(&format!("line {at} is no head")))?;
        let newest = heads.entry(head.writer).or_insert(head.at);
        if head.at.seq >= newest.seq {
            *newest = head.at;
        }
    }
    if heads.is_empty() { Err(wrong(&"there is no head in it: `nullpass audit export --heads` writes them")) } else { Ok(heads) }
}

/// What became of a chain.
#[derive(Debug, Serialize)]
struct Finding {
    writer: WriterId,
    /// How many events were looked at and hold.
    events: u64,
    /// When it began, or what is left of it did.
    since: Option<String>,
    /// Whether retention has removed events before.
    cut: bool,
    fault: Option<Fault>,
    message: Option<String>,
}

#[derive(Debug, Serialize)]
struct Report {
    whole: bool,
    chains: Vec<Finding>,
    unchained: Vec<EventId>,
}

fn verify(state: &mut State, heads: &BTreeMap<WriterId, Walk>, json: bool) -> Result<(), Failure> {
    let chains = chains(state)?;
    let known: BTreeMap<WriterId, &ChainRow> = chains.iter().map(|chain| (chain.writer, chain)).collect();
    // Writers are counted from 1 without a gap.
    let last = known.keys().chain(heads.keys()).max().copied();
    let mut findings = Vec::new();
    for writer in (1..=last.map_or(0, |last| last.0)).map(WriterId) {
        findings.push(follow(state, writer, known.get(&writer).copied(), heads.get(&writer).copied())?);
    }
    let AuditAnswer::Strays(unchained) = ask(state, AuditCommand::Strays)? else { return Err(state::unexpected()) };
    let report = Report { whole: unchained.is_empty() && findings.iter().all(|found| found.fault.is_none()), chains: findings, unchained };
    if json {
        output::json(&report)?;
    } else {
        output::text(&told(&report))?;
    }
    if report.whole {
        return Ok(());
    }
    Err(Failure::Failed(complaint(&report)))
}

/// Goes along one chain, a page at a time.
fn follow(state: &mut State, writer: WriterId, chain: Option<&ChainRow>, exported: Option<Walk>) -> Result<Finding, Failure> {
    let mut finding = Finding {
        writer,
        events: 0,
        since: chain.map(|chain| chain.base.time.clone()),
        cut: chain.is_some_and(|chain| chain.base.at.seq > 0),
        fault: None,
        message: None,
    };
    let base = chain.map_or(0, |chain| chain.base.at.seq);
    let mut from = None;
    loop {
        let command = AuditCommand::Verify { writer, from, exported };
        let AuditAnswer::Verified(verified) = ask(state, command)? else { return Err(state::unexpected()) };
        match verified {
            Verified::SoFar { at } => from = Some(at),
            Verified::Whole { at } => {
                finding.events = at.seq.saturating_sub(base);
                return Ok(finding);
            }
            Verified::Broken { fault } => {
                finding.events = from.map_or(0, |at| at.seq.saturating_sub(base));
                finding.message = Some(fault.to_string());
                finding.fault = Some(fault);
                return Ok(finding);
            }
        }
    }
}

fn told(report: &Report) -> String {
    if report.chains.is_empty() && report.unchained.is_empty() {
        return "nothing has been recorded yet\n".to_owned();
    }
    let mut table = Table::new(["WRITER", "EVENTS", "SINCE", "RESULT"]);
    for found in &report.chains {
        let since = found.since.as_deref().map(table::time).unwrap_or_default();
        let result = match &found.message {
            Some(message) => format!("NOT WHOLE: {message}"),
            None if found.cut => "whole; older events have run out".to_owned(),
            None => "whole".to_owned(),
        };
        table.row([found.writer.to_string(), number(found.events), since, result]);
    }
    table.render()
}

fn complaint(report: &Report) -> String {
    let broken = report.chains.iter().filter_map(|found| Some(format!("writer {}: {}", found.writer, found.message.as_ref()?)));
    let strays = report.unchained.iter().map(|id| format!("event {id} stands in no chain: it was put in"));
    let lines: Vec<String> = std::iter::once("the audit log is not whole".to_owned()).chain(broken).chain(strays).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_taken_as_people_write_them() {
        let at = |text: &str| since(text).unwrap();
        assert_eq!(at("2026-01-31T12:00:00+01:00"), at("2026-01-31T11:00:00Z"));
        assert_eq!(at("2026-01-31"), at("2026-01-31T00:00:00Z"));
        assert_eq!(at("24h"), Since::Ago(Duration::from_hours(24)));
        assert_eq!(at("7d"), Since::Ago(Duration::from_hours(168)));
        for wrong in ["", "soon", "2026-13-01", "-1h", "2026-02-30", "7"] {
            assert!(since(wrong).is_err(), "{wrong}");
        }
        assert_eq!(action("login_failed"), Ok(Action::LoginFailed));
        assert!(action("x").unwrap_err().contains("LOGIN_FAILED"));
    }

    // A user agent is whatever a client sent.
    #[test]
    fn a_terminal_is_told_nothing_by_an_event() {
        let event = EventRow {
            id: EventId::new(),
            at: "2026-01-31T12:00:00.123Z".to_owned(),
            action: Action::UserLogin,
            outcome: Outcome::Failure,
            user: None,
            email: None,
            actor: None,
            ip: None,
            user_agent: Some("a\x1b[2J\u{9b}b\u{202e}\n".to_owned()),
            request_id: None,
            details: BTreeMap::from([("x".to_owned(), "\x07".to_owned())]),
        };
        for text in [shown(&event), json_line(&event).unwrap()] {
            assert!(!text.chars().any(table::is_odd), "{text:?}");
        }
        let back: EventRow = serde_json::from_str(&json_line(&event).unwrap()).unwrap();
        assert_eq!(back, event);
        assert!(shown(&event).starts_with("2026-01-31T12:00:00Z  refused  USER_LOGIN             -  "), "{}", shown(&event));
    }

    #[test]
    fn heads_are_read_out_of_any_export() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("heads");
        let zeros = "A".repeat(43);
        let head = |seq: u64| format!(r#"{{"type":"head","writer":1,"seq":{seq},"link":"{zeros}","time":"x"}}"#);
        std::fs::write(&file, format!("{}\n\n{{\"type\":\"event\"}}\n{}\n{}\n", head(3), head(9), head(5))).unwrap();
        assert_eq!(read_heads(&file).unwrap()[&WriterId(1)].seq, 9);
        for text in ["", "{}", "nonsense", r#"{"type":"head","writer":1}"#] {
            std::fs::write(&file, text).unwrap();
            assert!(matches!(read_heads(&file), Err(Failure::Usage(_))), "{text}");
        }
        assert!(matches!(read_heads(&folder.path().join("none")), Err(Failure::Usage(_))));
    }
}
