//! The second factor of one's own account, by the JSON API; its pages are in `account`.

use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::api::proof;
use super::call::Call;
use super::error::Failure;
use super::input::Problem;
use super::reply;
use crate::auth::login::SecondFactor;
use crate::model::Secret;
use crate::wire::body::Body;

/// `POST A/auth/2fa`: asks for a secret, confirms it, or turns the second factor off.
pub(super) async fn api(call: &Call<'_>) -> Result<Response<Body>, Failure> {
    let signed = call.signed()?;
    let mut input = call.object()?;
    let enable = input.truth("enable")?;
    let proof = proof(&mut input)?;
    let sent = input.optional_secret("secret")?;
    let password = input.optional_secret("currentPassword")?;
    input.finish()?;
    let (auth, session, client, now) = (call.auth(), signed.session, &call.client, call.now());
    let body = match (enable, proof) {
        (true, None) => {
            let made = auth.begin_enrolment(session, password.into(), client, now).await?;
            json!({
                "qrCode": made.qr_code,
                "secret": made.secret.expose(),
                "manualEntryKey": made.manual_key,
                "otpauthUrl": made.otpauth_url,
            })
        }
        (true, Some(SecondFactor::Code(code))) => {
            let sent = sent.as_ref().map(|secret| secret.expose().as_str());
            let codes = auth.confirm_enrolment(session, &code, sent, password.into(), client, now).await?;
            json!({ "twoFactorEnabled": true, "recoveryCodes": shown(&codes) })
        }
        (true, Some(SecondFactor::Recovery(_))) => {
            return Err(Problem::new("recoveryCode", "can't turn a second factor on").into());
        }
        (false, Some(proof)) => {
            auth.end_enrolment(session, &proof, password.into(), client, now).await?;
            json!({ "twoFactorEnabled": false })
        }
        (false, None) => return Err(Problem::new("verificationCode", "is required").into()),
    };
    Ok(reply::json(StatusCode::OK, &body))
}

/// `POST A/auth/2fa/recovery-codes`.
pub(super) async fn recovery_codes(call: &Call<'_>) -> Result<Response<Body>, Failure> {
    let signed = call.signed()?;
    let mut input = call.optional_object()?;
    let password = input.optional_secret("currentPassword")?;
    input.finish()?;
    let codes = call.auth().replace_recovery_codes(signed.session, None, password.into(), &call.client, call.now()).await?;
    Ok(reply::json(StatusCode::OK, &json!({ "recoveryCodes": shown(&codes) })))
}

fn shown(codes: &[Secret<String>]) -> Vec<Value> {
    codes.iter().map(|code| code.expose().as_str().into()).collect()
}
