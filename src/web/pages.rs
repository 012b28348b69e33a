//! What all pages share: the frame around them, their problems, and the page that only says something.

use askama::Template;
use http::{HeaderMap, Response};

use super::assets::Assets;
use super::call::{Call, SealedForm, Stale, append_cookies};
use super::error::{Failure, Told};
use super::input::{Pairs, Problem};
use super::languages::{self, Filled, Language, Texts};
use super::said::{self, Wrong};
use super::{Web, reply, return_to};
use crate::wire::body::Body;

/// The frame around a page.
#[derive(Clone, Debug)]
pub(super) struct Shell<'a> {
    /// What the operator calls this place.
    pub(super) ui: &'a str,
    /// The prefix of our routes.
    pub(super) prefix: &'a str,
    /// The files that go with a page.
    pub(super) assets: &'a Assets,
    /// Whether the script does something here.
    pub(super) scripted: bool,
    /// The reader's language.
    pub(super) language: Language,
    /// What the switch of languages leads back to: an address that shows this page again. `None`: there is none, so
    /// neither is there a switch.
    pub(super) here: Option<String>,
    /// The words of the frame.
    pub(super) t: &'static Texts,
}

impl Shell<'_> {
    /// With another address that shows this page again.
    #[must_use]
    pub(super) fn at(self, here: String) -> Self {
        Self { here: Some(here), ..self }
    }

    /// With the script, for a page on which it does something.
    #[must_use]
    pub(super) fn scripted(self) -> Self {
        Self { scripted: true, ..self }
    }

    /// Without one: the page is gone when another is shown.
    #[must_use]
    pub(super) fn once(self) -> Self {
        Self { here: None, ..self }
    }
}

impl Web {
    /// The frame for a page in `language`.
    pub(super) fn shell(&self, language: Language, here: Option<String>) -> Shell<'_> {
        let t = language.texts();
        Shell { ui: &self.settings.ui.name, prefix: &self.settings.prefix, assets: &self.assets, scripted: false, language, here, t }
    }

    /// The language that a request's sender reads.
    pub(super) fn language(&self, headers: &HeaderMap) -> Language {
        languages::choose(headers, &self.settings.cookies, self.language)
    }
}

impl Call<'_> {
    /// The words of the pages in the reader's language.
    pub(super) fn texts(&self) -> &'static Texts {
        self.web.language(&self.head.headers).texts()
    }

    /// The frame for a page that answers this request. One that answers a form is also shown by its address, without
    /// what was typed.
    pub(super) fn shell(&self) -> Shell<'_> {
        let target = self.head.uri.path_and_query().map_or("/", |target| target.as_str());
        let here = (target.len() <= return_to::MAX_BYTES).then(|| target.to_owned());
        self.web.shell(self.web.language(&self.head.headers), here)
    }
}

/// What is wrong with a form: for the summary at its top and for the field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FormProblem {
    /// The field's name and id; `None`: the whole form.
    pub(super) field: Option<&'static str>,
    /// What is wrong.
    pub(super) text: Filled,
    /// What would help.
    pub(super) advice: Vec<&'static str>,
    /// The answer's status and waits.
    pub(super) told: Told,
}

impl FormProblem {
    /// From a failure, in the reader's words.
    pub(super) fn of(call: &Call<'_>, failure: &Failure) -> Self {
        failure.log(&call.context.request_id);
        let (t, told) = (call.texts(), failure.told());
        let Wrong { field, text, advice } = said::about(t, failure, &told);
        let field = if field == Some("code") && typed_recovery_code(call) { Some("recoveryCode") } else { field };
        Self { field, text, advice, told }
    }

    /// A field that has to be filled and is not; `name` is its name in the JSON API.
    pub(super) fn missing(call: &Call<'_>, name: &'static str) -> Self {
        Self::of(call, &Failure::Input(Problem::new(name, "is required")))
    }

    /// A form that did not come from a page of ours.
    pub(super) fn stale(call: &Call<'_>, stale: Stale) -> Self {
        let errors = &call.texts().errors;
        let text = match stale {
            Stale::Foreign => errors.foreign_form,
            Stale::Old => errors.stale_form,
        };
        Self { field: None, text: text.into(), advice: Vec::new(), told: Failure::CrossSite.told() }
    }
}

/// Whether the code that was sent was typed into the field for recovery codes.
fn typed_recovery_code(call: &Call<'_>) -> bool {
    let mut form = Pairs::parse(&call.body).unwrap_or_default();
    form.filled("code").is_none() && form.filled("recoveryCode").is_some()
}

/// A form's problem, or that there is none, for templates.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shown<'a>(pub(super) Option<&'a FormProblem>);

impl<'a> Shown<'a> {
    /// Whether there is none.
    pub(super) const fn is_none(self) -> bool {
        self.0.is_none()
    }

    /// What it says.
    pub(super) fn text(self) -> Filled {
        self.0.map_or_else(|| Filled::from(""), |problem| problem.text.clone())
    }

    /// Seconds to wait, when the text tells them.
    pub(super) fn wait(self) -> Option<u64> {
        self.0.and_then(|problem| said::wait(&problem.told))
    }

    /// What would help.
    pub(super) fn advice(self) -> &'a [&'static str] {
        self.0.map_or(&[], |problem| &problem.advice)
    }

    /// The field it is about.
    pub(super) fn field(self) -> Option<&'a str> {
        self.0.and_then(|problem| problem.field)
    }

    /// Whether it is about this field.
    pub(super) fn is_at(self, name: &str) -> bool {
        self.field() == Some(name)
    }
}

/// A page with a form: its status and waits are those of what is wrong with it.
pub(super) fn form(template: &impl Template, problem: Option<&FormProblem>, sealed: &SealedForm) -> Response<Body> {
    let status = problem.map_or(http::StatusCode::OK, |problem| problem.told.status);
    let mut response = reply::page(status, template);
    if let Some(problem) = problem {
        reply::add_waits(response.headers_mut(), &problem.told);
    }
    append_cookies(&mut response, sealed.cookies.iter().cloned());
    response
}

/// A page with a form that leads out of our pages when all is well. Browsers hold the redirects that follow on a form
/// against `form-action` too (CSP 3, section 6.4.1; Chromium does): also those of the application that a person comes
/// back to, which may lead to another host, and nobody knows which. So any web address will do there; what is sent goes
/// where the page says, and nothing that was ever typed can change a page's forms.
pub(super) fn leading_on(template: &impl Template, problem: Option<&FormProblem>, sealed: &SealedForm) -> Response<Body> {
    let mut response = form(template, problem, sealed);
    reply::let_forms_lead_on(&mut response);
    response
}

/// A link at the end of a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link<'a> {
    /// Where to.
    pub(super) href: &'a str,
    /// What it says.
    pub(super) text: &'a str,
    /// Whether it opens at the top, out of a frame.
    pub(super) top: bool,
}

#[derive(Template)]
#[template(path = "message.html")]
struct Message<'a> {
    shell: Shell<'a>,
    title: &'a str,
    text: Filled,
    remedy: Option<&'a str>,
    /// Seconds to wait, which the text tells.
    wait: Option<u64>,
    link: Option<Link<'a>>,
    request_id: Option<&'a str>,
}

/// A page that only says something that went wrong.
pub(super) fn message(shell: Shell<'_>, told: &Told, link: Option<Link<'_>>, request_id: &str) -> Response<Body> {
    let t = shell.t;
    let wait = said::wait(told);
    // The switch of languages leads back to the application's own address, and from there wherever that leads.
    let leads_on = shell.here.as_deref().is_some_and(|here| !here.starts_with(shell.prefix));
    let template = Message {
        title: said::title(t, told),
        text: said::error(t, told),
        remedy: said::remedy(t, told),
        wait,
        shell: Shell { scripted: wait.is_some(), ..shell },
        link,
        request_id: Some(request_id),
    };
    let mut response = reply::page(told.status, &template);
    if leads_on {
        reply::let_forms_lead_on(&mut response);
    }
    reply::add_waits(response.headers_mut(), told);
    response
}

/// A page that only says something good.
pub(super) fn notice(shell: Shell<'_>, title: &str, text: Filled, link: Option<Link<'_>>) -> Response<Body> {
    reply::page(http::StatusCode::OK, &Message { shell, title, text, remedy: None, wait: None, link, request_id: None })
}

/// A value for a query.
pub(super) fn encoded(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

/// A text that somebody else wrote, cut to so many characters, and without what turns the direction of text or can't be
/// seen.
pub(super) fn brief(text: &str, most: usize) -> String {
    let mut seen = text.chars().map(|c| if c.is_control() || return_to::is_unseen(c) { '\u{fffd}' } else { c });
    let mut short: String = seen.by_ref().take(most).collect();
    if seen.next().is_some() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_is_shown_harmlessly() {
        assert_eq!(brief("a\u{202e}b\u{7}", 60), "a\u{fffd}b\u{fffd}");
        assert_eq!(brief(&"x".repeat(100), 60).chars().count(), 61);
        assert_eq!(brief(&"x".repeat(60), 60), "x".repeat(60));
    }
}
