//! What went wrong, in the reader's words: the only place that leads from failures and codes to texts of a language.
//! Programs get the English ones of `error`.

use super::error::{Failure, Told, seconds};
use super::languages::{Filled, Texts};
use crate::auth::{self, Hint, PasswordProblem, Problem};

/// What is wrong with a form.
#[derive(Debug)]
pub(super) struct Wrong {
    /// The field's id in forms; `None`: the whole form.
    pub(super) field: Option<&'static str>,
    /// A sentence.
    pub(super) text: Filled,
    /// What would help.
    pub(super) advice: Vec<&'static str>,
}

/// What is wrong with a form. `told` is what programs get for the failure.
pub(super) fn about(t: &Texts, failure: &Failure, told: &Told) -> Wrong {
    let (name, problem) = if let Failure::Auth(auth::Error::Invalid { field, problem }) = failure {
        (*field, problem.clone())
    } else if let Failure::Input(problem) = failure {
        (problem.field.as_str(), Problem::from(problem.text.clone()))
    } else {
        return Wrong { field: field_of(told.code), text: error(t, told), advice: Vec::new() };
    };
    let field = match name {
        "email" => Some("email"),
        "password" => Some("password"),
        "newPassword" => Some("newPassword"),
        "currentPassword" => Some("currentPassword"),
        "displayName" => Some("displayName"),
        "verificationCode" => Some("code"),
        "recoveryCode" => Some("recoveryCode"),
        _ => None,
    };
    match problem {
        Problem::Password(problem) => {
            let (text, advice) = password(t, &problem);
            Wrong { field, text, advice }
        }
        Problem::Text(text) => Wrong { field, text: value(t, name, &text).into(), advice: Vec::new() },
    }
}

/// The field that an error without one is about.
fn field_of(code: &str) -> Option<&'static str> {
    match code {
        "invalid_credentials" => Some("password"),
        "invalid_code" => Some("code"),
        "address_taken" => Some("email"),
        _ => None,
    }
}

/// What is wrong with a value, by its field and the English words about it.
fn value(t: &Texts, name: &str, problem: &str) -> &'static str {
    let texts = &t.problems;
    let required = problem == "is required";
    match name {
        "email" if required => texts.email_required,
        "email" if problem.contains("longer") => texts.email_long,
        "email" if problem.contains("domain") => texts.email_domain,
        "email" => texts.email_invalid,
        "displayName" if problem.contains("longer") => texts.name_long,
        "displayName" => texts.name_characters,
        "newPassword" if required => texts.password_chosen,
        "password" | "currentPassword" if required => texts.password_required,
        "verificationCode" if required => texts.code_required,
        "verificationCode" | "recoveryCode" => texts.code_invalid,
        _ => texts.other,
    }
}

fn password(t: &Texts, problem: &PasswordProblem) -> (Filled, Vec<&'static str>) {
    let count = |length: &usize| u64::try_from(*length).unwrap_or(u64::MAX);
    match problem {
        PasswordProblem::TooShort { min } => (t.problems.password_short(count(min)), Vec::new()),
        PasswordProblem::TooLong { max } => (t.problems.password_long(count(max)), Vec::new()),
        PasswordProblem::Nul => (t.problems.password_nul.into(), Vec::new()),
        PasswordProblem::TooWeak { hints, advice: _ } => {
            (t.problems.password_weak.into(), hints.iter().map(|known| hint(t, *known)).collect())
        }
    }
}

const fn hint(t: &Texts, hint: Hint) -> &'static str {
    let advice = &t.advice;
    match hint {
        Hint::Common => advice.common,
        Hint::Similar => advice.similar,
        Hint::Word => advice.word,
        Hint::Name => advice.name,
        Hint::Keyboard => advice.keyboard,
        Hint::Repeats => advice.repeats,
        Hint::Sequence => advice.sequence,
        Hint::Dates => advice.dates,
        Hint::Substitutions => advice.substitutions,
        Hint::Reversed => advice.reversed,
        Hint::MoreWords => advice.more_words,
    }
}

/// What went wrong, by its code.
pub(super) fn error(t: &Texts, told: &Told) -> Filled {
    let errors = &t.errors;
    match (told.code, told.retry_after) {
        ("too_many_attempts", Some(wait)) => errors.too_many_attempts(t.within(wait)),
        ("too_many_requests", Some(wait)) => errors.too_many(t.within(wait)),
        ("no_service_worker", _) => errors.service_worker_refused.into(),
        ("bad_forward_auth" | "forged_identity", _) => errors.bad_request.into(),
        (code, _) => errors.get(code).unwrap_or(errors.other).into(),
    }
}

/// Seconds to wait, when [`error`] tells them.
pub(super) fn wait(told: &Told) -> Option<u64> {
    let tells = matches!(told.code, "too_many_attempts" | "too_many_requests");
    told.retry_after.filter(|_| tells).map(seconds)
}

/// What the page is called.
pub(super) fn title(t: &Texts, told: &Told) -> &'static str {
    let titles = &t.titles;
    match (told.code, told.status.as_u16()) {
        (_, 401) => titles.sign_in,
        (_, 403) => titles.forbidden,
        (_, 404) => titles.not_found,
        (_, 413) => titles.too_large,
        (_, 429) => titles.too_many,
        ("upstream_failed", _) => titles.bad_answer,
        ("upstream_timeout", _) => titles.too_slow,
        (_, 502..=504) => titles.unavailable,
        (_, 500) => titles.failed,
        _ => titles.other,
    }
}

/// What to do about it.
pub(super) fn remedy(t: &Texts, told: &Told) -> Option<&'static str> {
    let remedies = &t.remedies;
    match told.code {
        "upstream_failed" | "upstream_timeout" | "upstream_unhealthy" | "upstream_busy" => Some(remedies.application),
        "unavailable" | "busy" | "internal_error" => Some(remedies.operator),
        "forbidden" => Some(remedies.other_account),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use http::StatusCode;

    use super::*;
    use crate::model::{DisplayName, Email};
    use crate::web::languages::Language;

    /// The words with an underscore among the string literals of a file, without its tests: its codes.
    fn codes(source: &'static str) -> impl Iterator<Item = &'static str> {
        let code = source.split("#[cfg(test)]").next().unwrap();
        let is_code = |text: &&str| text.contains('_') && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        code.split('"').filter(is_code)
    }

    #[test]
    fn every_code_has_its_words() {
        let mut known: BTreeSet<_> = codes(include_str!("error.rs")).chain(codes(include_str!("refuse.rs"))).collect();
        assert!(known.len() > 35, "{known:?}");
        known.extend(["busy", "conflict", "forbidden", "unavailable", "bad_forward_auth", "forged_identity"]);
        let t = Language::En.texts();
        for code in known {
            let told = Told::new(StatusCode::BAD_REQUEST, code, "x").after(Duration::from_secs(1));
            assert_ne!(error(t, &told), t.errors.other.into(), "{code}");
        }
    }

    #[test]
    fn values_are_told_by_what_is_wrong_with_them() {
        let t = Language::En.texts();
        let wrong = |field: &'static str, problem: Problem| {
            let failure = Failure::Auth(auth::Error::Invalid { field, problem });
            let wrong = about(t, &failure, &failure.told());
            (wrong.field.unwrap_or_default(), wrong.text.to_string(), wrong.advice.len())
        };
        let text = |error: crate::model::InvalidValue| Problem::from(error.to_string());
        let email = |typed: &str| wrong("email", text(Email::parse(typed).unwrap_err())).1;
        assert_eq!(email("x"), t.problems.email_invalid);
        assert_eq!(email(&format!("{}@example.com", "x".repeat(300))), t.problems.email_long);
        let name = |typed: &str| wrong("displayName", text(DisplayName::parse(typed).unwrap_err()));
        assert_eq!(name("a\0b"), ("displayName", t.problems.name_characters.to_owned(), 0));
        assert_eq!(name(&"x".repeat(129)).1, t.problems.name_long);
        let short = wrong("newPassword", PasswordProblem::TooShort { min: 8 }.into());
        assert_eq!(short, ("newPassword", "The password must have at least 8 characters.".to_owned(), 0));
        let weak = PasswordProblem::TooWeak { advice: String::new(), hints: vec![Hint::Common, Hint::MoreWords] };
        assert_eq!(wrong("password", weak.into()), ("password", t.problems.password_weak.to_owned(), 2));
        assert_eq!(wrong("expiresAt", "must be in the future".into()).0, "");
    }

    #[test]
    fn only_what_tells_a_wait_has_one() {
        let told = |code| Told::new(StatusCode::TOO_MANY_REQUESTS, code, "x").after(Duration::from_millis(1500));
        assert_eq!((wait(&told("too_many_requests")), wait(&told("busy"))), (Some(2), None));
        assert!(error(Language::En.texts(), &told("too_many_requests")).to_string().contains("<strong>"));
    }
}
