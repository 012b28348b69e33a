//! What a page says about the form that led to it. It comes along in the address as a word that we sealed for this
//! session, so that nobody else's link can make a page say anything.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use subtle::ConstantTimeEq as _;

use crate::clock::Timestamp;
use crate::model::SessionId;
use crate::web::call::Call;
use crate::web::languages::Texts;

/// How long a notice is shown: a page that is loaded again later does not repeat it.
const LIFE: Duration = Duration::from_secs(120);

/// Something that was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Notice {
    /// The profile was changed.
    Profile,
    /// The password was changed, and all other sessions ended.
    Password,
    /// The second factor was turned off.
    SecondFactorOff,
    /// A session was ended.
    Session,
    /// All other sessions were ended.
    Others,
    /// An API token was ended.
    Token,
    /// What was to be ended is not there.
    Gone,
}

impl Notice {
    const ALL: [Self; 7] = [Self::Profile, Self::Password, Self::SecondFactorOff, Self::Session, Self::Others, Self::Token, Self::Gone];

    const fn word(self) -> &'static str {
        match self {
            Self::Profile => "profile",
            Self::Password => "password",
            Self::SecondFactorOff => "2fa-off",
            Self::Session => "session",
            Self::Others => "others",
            Self::Token => "token",
            Self::Gone => "gone",
        }
    }

    /// What it says.
    pub(super) const fn text(self, t: &Texts) -> &'static str {
        let notices = &t.account.notices;
        match self {
            Self::Profile => notices.profile,
            Self::Password => notices.password,
            Self::SecondFactorOff => notices.second_factor_off,
            Self::Session => notices.session,
            Self::Others => notices.others,
            Self::Token => notices.token,
            Self::Gone => notices.gone,
        }
    }

    /// The address of a page of ours that says it, to this session.
    pub(super) fn address(self, call: &Call<'_>, path: &str, session: SessionId) -> String {
        let mark = if path.contains('?') { '&' } else { '?' };
        format!("{}{mark}done={}", call.own(path), self.sealed(call, session, call.now()))
    }

    /// The notice that this request's address bears for this session.
    pub(super) fn read(call: &Call<'_>, session: SessionId) -> Option<Self> {
        let sent = call.query().ok()?.take("done")?;
        let (word, rest) = sent.split_once('.')?;
        let at = Timestamp::from_secs(rest.split_once('.')?.0.parse().ok()?);
        let notice = Self::ALL.into_iter().find(|notice| notice.word() == word)?;
        let genuine: bool = notice.sealed(call, session, at).as_bytes().ct_eq(sent.as_bytes()).into();
        (genuine && at <= call.now() && call.now().since(at) <= LIFE).then_some(notice)
    }

    fn sealed(self, call: &Call<'_>, session: SessionId, at: Timestamp) -> String {
        let (word, secs) = (self.word(), at.as_secs());
        let mac = call.auth().browser_mac("notice", format!("{word}\n{secs}\n{session}").as_bytes());
        format!("{word}.{secs}.{}", URL_SAFE_NO_PAD.encode(mac.as_bytes()))
    }
}
