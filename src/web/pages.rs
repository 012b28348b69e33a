//! What all pages share: the frame around them, their problems, and the page that only says something.

use askama::Template;
use http::Response;

use super::call::{Call, SealedForm, Stale, append_cookies};
use super::error::{Failure, Told};
use super::{Web, reply};
use crate::wire::body::Body;

/// The frame around a page.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shell<'a> {
    /// What the operator calls this place.
    pub(super) ui: &'a str,
    /// The prefix of our routes.
    pub(super) prefix: &'a str,
    /// The style sheet's file name.
    pub(super) style: &'a str,
}

impl Web {
    pub(super) fn shell(&self) -> Shell<'_> {
        Shell { ui: &self.settings.ui.name, prefix: &self.settings.prefix, style: &self.style.name }
    }
}

/// What is wrong with a form, for its summary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FormProblem {
    /// The field's name and id; `None`: the whole form.
    pub(super) field: Option<&'static str>,
    /// For people.
    pub(super) text: String,
    /// The answer's status and waits.
    pub(super) told: Told,
}

impl FormProblem {
    /// From a failure; the fields of the API have labels in forms.
    pub(super) fn of(call: &Call<'_>, failure: &Failure) -> Self {
        failure.log(&call.context.request_id);
        let told = failure.told();
        let Some(name) = told.field.as_deref() else { return Self { field: default_field(&told), text: told.text.clone(), told } };
        let (field, label) = match name {
            "email" => (Some("email"), "The e-mail address"),
            "password" | "newPassword" | "currentPassword" => (Some("password"), "The password"),
            "displayName" => (Some("displayName"), "The name"),
            "verificationCode" => (Some("code"), "The code"),
            "recoveryCode" => (Some("recoveryCode"), "The recovery code"),
            _ => (None, "What was sent"),
        };
        let problem = told.text.strip_prefix(name).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(&told.text);
        Self { field, text: format!("{label} {problem}."), told }
    }

    /// A form that did not come from a page of ours.
    pub(super) fn stale(stale: Stale) -> Self {
        Self { field: None, text: stale.text().into(), told: Failure::CrossSite.told() }
    }
}

/// A form's problem, or that there is none, for templates.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shown<'a>(pub(super) Option<&'a FormProblem>);

impl<'a> Shown<'a> {
    /// What it says.
    pub(super) fn text(self) -> Option<&'a str> {
        self.0.map(|problem| problem.text.as_str())
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

/// The field that an error without one is about.
fn default_field(told: &Told) -> Option<&'static str> {
    match told.code {
        "invalid_credentials" => Some("password"),
        "invalid_code" => Some("code"),
        "address_taken" => Some("email"),
        _ => None,
    }
}

/// A page with a form: its status and waits are those of what is wrong with it.
pub(super) fn form(template: &impl Template, problem: Option<&FormProblem>, sealed: &SealedForm) -> Response<Body> {
    let status = problem.map_or(http::StatusCode::OK, |problem| problem.told.status);
    let mut response = reply::page(status, template);
    if let Some(problem) = problem {
        reply::add_waits(response.headers_mut(), &problem.told);
    }
    append_cookies(&mut response, sealed.cookie.clone());
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
    text: &'a str,
    link: Option<Link<'a>>,
    request_id: Option<&'a str>,
}

/// A page that only says something that went wrong.
pub(super) fn message(web: &Web, told: &Told, link: Option<Link<'_>>, request_id: &str) -> Response<Body> {
    let title = match told.status.as_u16() {
        401 => "Sign in first",
        403 => "Not allowed",
        404 => "Not found",
        413 => "Too large",
        429 => "Too many requests",
        502..=504 => "Not available",
        500 => "Something went wrong",
        _ => "This did not work",
    };
    let template = Message { shell: web.shell(), title, text: &told.text, link, request_id: Some(request_id) };
    let mut response = reply::page(told.status, &template);
    reply::add_waits(response.headers_mut(), told);
    response
}

/// A page that only says something good.
pub(super) fn notice(web: &Web, title: &str, text: &str, link: Option<Link<'_>>) -> Response<Body> {
    reply::page(http::StatusCode::OK, &Message { shell: web.shell(), title, text, link, request_id: None })
}

/// A value for a query.
pub(super) fn encoded(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}
