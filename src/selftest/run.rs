//! Sending the corpus to an instance: one request after the other, so many a second, and no more of them than there are.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use thiserror::Error;
use tokio::time::MissedTickBehavior;

use super::answer::Answer;
use super::corpus::{Case, Corpus, CorpusError, Expected, Who};
use super::instance::{Instance, InstanceError};
use super::judge::{self, Outcome, Place};
use super::request::{Request, Values};

/// So many requests may stay without an answer, each for ten seconds, before the instance counts as gone.
const MOST_SILENT: usize = 8;

/// What is to be tested, and how.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where the instance's own routes are.
    pub prefix: String,
    /// A path of its that asks for a session, in the place of the corpus' `/admin`.
    pub protected: String,
    /// A path of its that does not, in the place of the corpus' `/public`.
    pub public: String,
    /// Requests a second, at most.
    pub rate: u32,
    /// Whether something else than nullpass is tested: then its own routes are left alone.
    pub any_server: bool,
}

/// What was found.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// By kind of attack, in the order in which they were sent.
    pub families: Vec<Row>,
    /// Everything that should not be.
    pub surprises: Vec<Surprise>,
    /// Requests that were sent, those for comparison too.
    pub requests: usize,
    /// Cases that take an account and were not sent.
    pub not_sent: usize,
    /// Whether the path that should ask for a session does. If not, little can be told.
    pub protected_is_protected: bool,
    /// Whether the public path is.
    pub public_is_public: bool,
}

/// A kind of attack.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// Its name.
    pub family: String,
    /// Cases that were sent.
    pub sent: usize,
    /// Those that were refused.
    pub refused: usize,
    /// Those that were let through, or answered by a page of nullpass.
    pub passed: usize,
    /// Those that should have been the other.
    pub surprises: usize,
}

/// A case whose answer is wrong.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Surprise {
    /// Its id in the corpus.
    pub id: String,
    /// Its family.
    pub family: String,
    /// What it tries.
    pub about: String,
    /// Where it comes from.
    pub source: String,
    /// The first line that was sent, with escapes for what is no text.
    pub sent: String,
    /// What is wrong.
    pub problem: String,
}

/// Why nothing was found out.
#[derive(Debug, Error)]
pub enum RunError {
    /// The corpus that this binary was built with.
    #[error(transparent)]
    Corpus(#[from] CorpusError),
    /// The instance.
    #[error(transparent)]
    Instance(#[from] InstanceError),
    /// Something else listens there.
    #[error(
        "this is no nullpass: {prefix}/api/health answered {status}; --prefix says where its routes are, --any-server tests it all the same"
    )]
    NotNullpass {
        /// Where it was looked for.
        prefix: String,
        /// What was there.
        status: u16,
    },
    /// It limits requests and would refuse the rest.
    #[error("the instance limits the number of requests (429) after {0}: set a lower --rate, or lift limits.requests_per_ip meanwhile")]
    Limited(usize),
}

impl Plan {
    /// Sends everything that can be sent without an account.
    pub async fn run(&self, instance: &Instance) -> Result<Report, RunError> {
        let corpus = Corpus::embedded()?;
        let mut run = Run::new(self, instance);
        if !self.any_server {
            run.check_nullpass().await?;
        }
        let probe = |target: &str| Request {
            method: "GET".to_owned(),
            target: target.to_owned(),
            host: Some(CORPUS_HOST.to_owned()),
            fields: Vec::new(),
            body: String::new(),
            raw: None,
            rd: None,
        };
        run.report.protected_is_protected = matches!(run.outcome(probe("/admin/x").bytes(&run.values)).await?, Outcome::Refused(_));
        run.report.public_is_public = matches!(run.outcome(probe("/public/a").bytes(&run.values)).await?, Outcome::Passed(_));
        for case in &corpus.attacks {
            run.attack(case).await?;
        }
        for case in &corpus.honest {
            run.honest(case).await?;
        }
        Ok(run.report)
    }
}

/// What the corpus calls the instance.
const CORPUS_HOST: &str = "app.example.com";

struct Run<'a> {
    plan: &'a Plan,
    instance: &'a Instance,
    values: Values,
    pace: tokio::time::Interval,
    seen: BTreeMap<Vec<u8>, Outcome>,
    silent: usize,
    report: Report,
}

impl<'a> Run<'a> {
    fn new(plan: &'a Plan, instance: &'a Instance) -> Self {
        let mut pace = tokio::time::interval(Duration::from_secs(1) / plan.rate.max(1));
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut values = Values::default();
        values.rename(CORPUS_HOST, instance.host());
        for (name, path) in [("/_auth", &plan.prefix), ("/admin", &plan.protected), ("/public", &plan.public)] {
            let path = path.trim_end_matches('/');
            if path != name {
                values.rename(name, path);
            }
        }
        Self { plan, instance, values, pace, seen: BTreeMap::new(), silent: 0, report: Report::default() }
    }

    async fn check_nullpass(&mut self) -> Result<(), RunError> {
        let health = format!("GET {}/api/health HTTP/1.1\r\nHost: {}\r\n\r\n", self.plan.prefix, self.instance.host());
        let answer = self.ask(health.as_bytes(), false).await?;
        let is_ours = answer.status == 200 && answer.text().contains("\"service\":\"nullpass\"");
        if is_ours { Ok(()) } else { Err(RunError::NotNullpass { prefix: self.plan.prefix.clone(), status: answer.status }) }
    }

    async fn ask(&mut self, bytes: &[u8], to_head: bool) -> Result<Answer, RunError> {
        self.pace.tick().await;
        self.report.requests += 1;
        match self.instance.ask(bytes, to_head).await {
            // One that waits for more of an attack is not gone yet.
            Err(InstanceError::Silent(_)) if self.silent < MOST_SILENT => {
                self.silent += 1;
                Ok(Answer::default())
            }
            Err(error) => Err(error.into()),
            Ok(answer) if answer.status == 429 => Err(RunError::Limited(self.report.requests)),
            Ok(answer) => Ok(answer),
        }
    }

    /// What becomes of a plain request. Asked once.
    async fn outcome(&mut self, bytes: Vec<u8>) -> Result<Outcome, RunError> {
        if let Some(outcome) = self.seen.get(&bytes) {
            return Ok(*outcome);
        }
        let answer = self.ask(&bytes, bytes.starts_with(b"HEAD ")).await?;
        let outcome = Outcome::of(&answer, &self.plan.prefix);
        self.seen.insert(bytes, outcome);
        Ok(outcome)
    }

    /// What becomes of everything that a case could mean.
    async fn plain(&mut self, case: &Case) -> Result<Vec<(String, Outcome)>, RunError> {
        let mut outcomes = Vec::new();
        for form in judge::plain_forms(&case.request, &self.values) {
            // Everything in it was renamed already.
            let outcome = self.outcome(form.bytes(&Values::default())).await?;
            outcomes.push((form.target, outcome));
        }
        Ok(outcomes)
    }

    fn can_be_sent(&mut self, case: &Case) -> bool {
        let about_ours = || {
            let request = &case.request;
            [Some(&request.target), request.raw.as_ref()].into_iter().flatten().any(|text| text.contains("_auth")) || request.rd.is_some()
        };
        let can = case.who == Who::Visitor && self.values.suffice(&case.request) && !(self.plan.any_server && about_ours());
        self.report.not_sent += usize::from(!can);
        can
    }

    async fn attack(&mut self, case: &Case) -> Result<(), RunError> {
        if !self.can_be_sent(case) {
            return Ok(());
        }
        let leads = case.expected.iter().any(|expected| matches!(expected, Expected::Leads(_)));
        let plain = if case.anywhere || leads { Vec::new() } else { self.plain(case).await? };
        let answer = self.ask(&case.request.bytes(&self.values), case.request.method == "HEAD").await?;
        let place = Place { prefix: &self.plan.prefix, host: self.instance.host() };
        let problem = judge::surprise(case, &answer, &plain, &place);
        self.note(case, &answer, problem);
        Ok(())
    }

    async fn honest(&mut self, case: &Case) -> Result<(), RunError> {
        if !self.can_be_sent(case) {
            return Ok(());
        }
        let leads = case.expected.iter().any(|expected| matches!(expected, Expected::Leads(_)));
        let plain = if leads { Vec::new() } else { self.plain(case).await? };
        let answer = self.ask(&case.request.bytes(&self.values), case.request.method == "HEAD").await?;
        let place = Place { prefix: &self.plan.prefix, host: self.instance.host() };
        let problem = if leads { judge::surprise(case, &answer, &plain, &place) } else { judge::refusal(&answer, &plain, &place) };
        self.note(case, &answer, problem);
        Ok(())
    }

    fn note(&mut self, case: &Case, answer: &Answer, problem: Option<String>) {
        let refused = matches!(Outcome::of(answer, &self.plan.prefix), Outcome::Refused(_));
        if self.report.families.last().is_none_or(|row| row.family != case.family) {
            self.report.families.push(Row { family: case.family.clone(), sent: 0, refused: 0, passed: 0, surprises: 0 });
        }
        if let Some(row) = self.report.families.last_mut() {
            row.sent += 1;
            row.refused += usize::from(refused);
            row.passed += usize::from(!refused);
            row.surprises += usize::from(problem.is_some());
        }
        if let Some(problem) = problem {
            let bytes = case.request.bytes(&self.values);
            let line = bytes.split(|&byte| byte == b'\r').next().unwrap_or_default();
            let sent = line.get(..line.len().min(160)).unwrap_or_default().escape_ascii().to_string();
            self.report.surprises.push(Surprise {
                id: case.id.clone(),
                family: case.family.clone(),
                about: case.about.clone(),
                source: case.source.clone(),
                sent,
                problem,
            });
        }
    }
}
