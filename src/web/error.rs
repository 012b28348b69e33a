//! The one table from what went wrong to status, code and text. What a 5xx is about goes to the log, never to a client.

use std::error::Error as _;
use std::fmt::Write as _;
use std::time::Duration;

use http::{Method, StatusCode};

use super::input::Problem;
use crate::auth::{self, Quota};

/// Why a request to one of our routes was not done.
#[derive(Debug)]
pub(super) enum Failure {
    /// The use case said no.
    Auth(auth::Error),
    /// What was sent breaks a rule of its form.
    Input(Problem),
    /// The body is larger than 64 KiB.
    TooLarge,
    /// The body broke off.
    BrokenOff,
    /// The body did not arrive in time.
    TooSlow,
    /// The body is of another kind than the route takes.
    WrongKind {
        /// The content type that it takes.
        takes: &'static str,
    },
    /// The route knows other methods.
    WrongMethod {
        /// Which.
        allow: Vec<Method>,
    },
    /// There is no such route.
    NoRoute,
    /// The cookie came along from another site, or nobody can tell.
    CrossSite,
    /// An API token is not enough here.
    SessionRequired,
    /// The store does not answer, so nobody knows whether the session is good.
    StoreAway,
    /// The token that was asked about is worth nothing.
    BadToken,
    /// A service worker script of ours: there is none, and there must never be one.
    ServiceWorker,
}

impl From<auth::Error> for Failure {
    fn from(error: auth::Error) -> Self {
        Self::Auth(error)
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::Input(problem)
    }
}

/// What a client may know of a failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    /// The status.
    pub(super) status: StatusCode,
    /// For programs; never changes.
    pub(super) code: &'static str,
    /// For people.
    pub(super) text: String,
    /// The field that is wrong.
    pub(super) field: Option<String>,
    /// When to try again.
    pub(super) retry_after: Option<Duration>,
    /// What is exhausted, when it is a bucket.
    pub(super) quota: Option<Quota>,
    /// For `Allow`.
    pub(super) allow: Vec<Method>,
}

impl Told {
    /// A status with its code and text.
    pub(super) fn new(status: StatusCode, code: &'static str, text: impl Into<String>) -> Self {
        Self { status, code, text: text.into(), field: None, retry_after: None, quota: None, allow: Vec::new() }
    }

    /// With a time to wait.
    #[must_use]
    pub(super) fn after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    fn field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }
}

/// How long to wait when the store is away or the machine is busy.
pub(super) const RETRY_SOON: Duration = Duration::from_secs(2);

impl Failure {
    /// What the client is told.
    pub(super) fn told(&self) -> Told {
        match self {
            Self::Auth(error) => told(error),
            Self::Input(problem) => invalid(&problem.field, &problem.text),
            Self::TooLarge => Told::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", "The request's body is larger than 64 KiB."),
            Self::BrokenOff => Told::new(StatusCode::BAD_REQUEST, "invalid_request", "The request's body broke off.").field("body"),
            Self::TooSlow => Told::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", "The request's body took too long to arrive."),
            Self::WrongKind { takes } => {
                Told::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", format!("The body must be {takes}."))
            }
            Self::WrongMethod { allow } => {
                let mut told = Told::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "This route knows other methods only.");
                told.allow.clone_from(allow);
                told
            }
            Self::NoRoute => Told::new(StatusCode::NOT_FOUND, "not_found", "There is nothing at this address."),
            Self::CrossSite => {
                let text = "This request comes from another site, or does not say where from. Nothing was done.";
                Told::new(StatusCode::FORBIDDEN, "cross_site", text)
            }
            Self::SessionRequired => {
                Told::new(StatusCode::FORBIDDEN, "session_required", "An API token can't do this: sign in with your password.")
            }
            Self::StoreAway => unavailable(),
            Self::BadToken => Told::new(StatusCode::UNAUTHORIZED, "invalid_token", "The token is expired, ended or not one of ours."),
            Self::ServiceWorker => Told::new(StatusCode::FORBIDDEN, "no_service_worker", "There is no service worker here."),
        }
    }

    /// Writes to the log what the client must not know.
    pub(super) fn log(&self, request_id: &str) {
        if let Self::Auth(error) = self {
            log(error, request_id);
        }
    }
}

/// Writes to the log what the client must not know: what is behind a 5xx. That there is no place to check a password is said
/// where it is found out, once for many.
pub(super) fn log(error: &auth::Error, request_id: &str) {
    if told(error).status.is_server_error() && !matches!(error, auth::Error::Busy) {
        tracing::error!(request_id, error = chain(error), "a request could not be done");
    }
}

/// The table. Every variant is named, so that a new one has to be thought about.
pub(super) fn told(error: &auth::Error) -> Told {
    use auth::Error;
    match error {
        Error::WrongCredentials => {
            Told::new(StatusCode::UNAUTHORIZED, "invalid_credentials", "The e-mail address or the password is wrong.")
        }
        Error::WrongCode => Told::new(StatusCode::UNAUTHORIZED, "invalid_code", "The code is wrong or was used already."),
        Error::PendingExpired => Told::new(StatusCode::UNAUTHORIZED, "pending_expired", "This sign-in has expired: start again."),
        Error::AccountDisabled => Told::new(StatusCode::FORBIDDEN, "account_disabled", "This account is disabled."),
        Error::SignInRequired => Told::new(StatusCode::UNAUTHORIZED, "sign_in_required", "Sign in first."),
        Error::FreshPasswordRequired => {
            Told::new(StatusCode::FORBIDDEN, "fresh_password_required", "Enter your password again to do this.")
        }
        Error::EnrolmentRequired => Told::new(StatusCode::FORBIDDEN, "second_factor_enrolment_required", "Set up a second factor first."),
        Error::SecondFactorRequired => {
            Told::new(StatusCode::FORBIDDEN, "second_factor_required", "A code of your second factor is needed.")
        }
        Error::AddressTaken => Told::new(StatusCode::CONFLICT, "address_taken", "An account with this e-mail address exists already."),
        Error::RegistrationClosed => Told::new(StatusCode::FORBIDDEN, "registration_closed", "Registration is closed here."),
        Error::SetupExpired => {
            let text = "This set-up link is not valid any more: restart nullpass to get a new one.";
            Told::new(StatusCode::FORBIDDEN, "setup_expired", text)
        }
        Error::Invalid { field, problem } => invalid(field, &problem.to_string()),
        Error::TooManyAttempts { retry_after, quota } => too_many(*retry_after, *quota),
        Error::NotFound => Told::new(StatusCode::NOT_FOUND, "not_found", "There is no such thing, or it is not yours."),
        Error::Conflict => Told::new(StatusCode::CONFLICT, "conflict", "This does not fit the present state, or it was changed meanwhile."),
        Error::Busy => Told::new(StatusCode::SERVICE_UNAVAILABLE, "busy", "Too busy: try again in a moment.").after(RETRY_SOON),
        Error::Unavailable(_) => unavailable(),
        Error::Keys(_) | Error::Internal(_) => {
            Told::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", "Something went wrong on our side.")
        }
    }
}

/// The store is away.
pub(super) fn unavailable() -> Told {
    Told::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Signing in does not work at the moment: try again soon.").after(RETRY_SOON)
}

/// Too many attempts.
pub(super) fn too_many(retry_after: Duration, quota: Option<Quota>) -> Told {
    let text = format!("Too many attempts: try again in {}.", wait_text(retry_after));
    let mut told = Told::new(StatusCode::TOO_MANY_REQUESTS, "too_many_attempts", text).after(retry_after);
    told.quota = quota;
    told
}

/// A wait for people.
pub(super) fn wait_text(wait: Duration) -> String {
    match seconds(wait) {
        1 => "a second".into(),
        seconds @ 2..120 => format!("{seconds} seconds"),
        seconds => format!("{} minutes", seconds.div_ceil(60)),
    }
}

/// A wait in whole seconds for a header: rounded up, at least one.
pub(super) fn seconds(wait: Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}

fn invalid(field: &str, problem: &str) -> Told {
    Told::new(StatusCode::BAD_REQUEST, "invalid_request", format!("{field}: {problem}")).field(field)
}

fn chain(error: &auth::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _infallible = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store;

    #[test]
    fn server_errors_carry_no_internal_word() {
        let canary = "sled at /var/lib/canary";
        for error in [
            auth::Error::Internal(canary.into()),
            auth::Error::Unavailable(store::Error::Unavailable(canary.into())),
            auth::Error::Unavailable(store::Error::Corrupt(canary.into())),
        ] {
            let told = told(&error);
            assert!(told.status.is_server_error());
            assert!(!told.text.contains("canary") && !told.text.contains("sled"), "{}", told.text);
        }
        let chain = chain(&auth::Error::Unavailable(store::Error::Unavailable(canary.into())));
        assert!(chain.contains("canary"), "the log knows");
    }

    #[test]
    fn statuses_are_those_of_the_contract() {
        let retry = Duration::from_millis(1500);
        for (error, status, code) in [
            (auth::Error::WrongCredentials, 401, "invalid_credentials"),
            (auth::Error::AccountDisabled, 403, "account_disabled"),
            (auth::Error::FreshPasswordRequired, 403, "fresh_password_required"),
            (auth::Error::SecondFactorRequired, 403, "second_factor_required"),
            (auth::Error::EnrolmentRequired, 403, "second_factor_enrolment_required"),
            (auth::Error::AddressTaken, 409, "address_taken"),
            (auth::Error::TooManyAttempts { retry_after: retry, quota: None }, 429, "too_many_attempts"),
            (auth::Error::Busy, 503, "busy"),
        ] {
            let told = told(&error);
            assert_eq!((told.status.as_u16(), told.code), (status, code));
            assert!(told.status != 429 && told.status != 503 || told.retry_after.is_some());
        }
        assert_eq!(seconds(retry), 2);
        assert_eq!(seconds(Duration::ZERO), 1);
        let told = told(&auth::Error::Invalid { field: "email", problem: "is not valid".into() });
        assert_eq!((told.status.as_u16(), told.field.as_deref(), told.text.as_str()), (400, Some("email"), "email: is not valid"));
    }

    #[test]
    fn codes_are_words_for_programs() {
        for failure in
            [Failure::TooLarge, Failure::BrokenOff, Failure::NoRoute, Failure::CrossSite, Failure::SessionRequired, Failure::StoreAway]
        {
            assert!(failure.told().code.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
        }
    }
}
