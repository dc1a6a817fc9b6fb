//! `final_message`, `phone_home` and `power_state`: what comes after all other steps.

use super::flex::Command;
use super::raw;
use yaml::{Diagnostics, Scalar, Spans};

/// Where the host reports that it is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PhoneHome {
    /// `$INSTANCE_ID` stands for the instance id.
    pub url: String,
    /// Of [`POST`].
    pub post: Vec<String>,
    /// At least one.
    pub tries: u32,
}

/// What `phone_home` can send.
pub const POST: [&str; 6] = [
    "pub_key_rsa",
    "pub_key_ecdsa",
    "pub_key_ed25519",
    "instance_id",
    "hostname",
    "fqdn",
];

/// How the host goes down once it is configured, once for an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PowerState {
    /// `halt`, `poweroff` or `reboot`.
    pub mode: String,
    /// Minutes; 0 is now.
    pub delay: u32,
    pub message: Option<String>,
    /// `None`: always. A command decides with its exit status.
    pub condition: Option<Command>,
}

pub(super) fn phone_home(
    raw: raw::PhoneHome,
    spans: &Spans,
    found: &mut Diagnostics,
) -> Option<PhoneHome> {
    let mut error = |key: &str, message: String, help: &str| {
        let at = format!("phone_home.{key}");
        found.push_unless_known(spans.error_at(&at, message, Some(help.to_owned())));
    };
    let Some(url) = raw.url else {
        error(
            "url",
            "the key `url` is missing".to_owned(),
            "write `url: http://…`",
        );
        return None;
    };
    if !url.starts_with("http://") && !url.starts_with("https://") {
        error(
            "url",
            "not an HTTP address".to_owned(),
            "write `http://…` or `https://…`",
        );
    }
    let all = raw.post.0.is_empty() || raw.post.0 == ["all"];
    for key in raw
        .post
        .0
        .iter()
        .filter(|key| !all && !POST.contains(&key.as_str()))
    {
        let known = POST.join("`, `");
        error(
            "post",
            format!("`{key}` is nothing to send"),
            &format!("known are `{known}`"),
        );
    }
    let tries = raw
        .tries
        .map_or(Some(10), |tries| tries.text.parse::<u32>().ok());
    if tries.is_none_or(|tries| tries == 0) {
        error(
            "tries",
            "expected a number, 1 or larger".to_owned(),
            "write `tries: 10`",
        );
    }
    Some(PhoneHome {
        url,
        post: if all {
            POST.map(str::to_owned).to_vec()
        } else {
            raw.post.0
        },
        tries: tries.unwrap_or(1),
    })
}

pub(super) fn power_state(
    raw: raw::PowerState,
    spans: &Spans,
    found: &mut Diagnostics,
) -> Option<PowerState> {
    let mut error = |key: &str, message: &str| {
        found.push_unless_known(spans.error_at(&format!("power_state.{key}"), message, None));
    };
    let mode = raw.mode.unwrap_or_default();
    if !["halt", "poweroff", "reboot"].contains(&mode.as_str()) {
        error("mode", "expected `halt`, `poweroff` or `reboot`");
    }
    let delay = raw.delay.as_ref().map_or(Some(0), delay);
    if delay.is_none() {
        error("delay", "expected `now`, or minutes: `5` or `+5`");
    }
    let seconds = |text: &Scalar| text.text.parse::<f64>().is_ok_and(|n| n >= 0.0);
    if raw
        .timeout
        .as_ref()
        .is_some_and(|timeout| !seconds(timeout))
    {
        error("timeout", "expected seconds");
    }
    let condition = match raw.condition {
        Some(raw::Condition::Fixed(false)) => return None,
        None | Some(raw::Condition::Fixed(true)) => None,
        Some(raw::Condition::Command(Command::Argv(words))) if words.is_empty() => {
            error("condition", "the command is empty");
            None
        }
        Some(raw::Condition::Command(command)) => Some(command),
    };
    Some(PowerState {
        mode,
        delay: delay.unwrap_or(0),
        message: raw.message,
        condition,
    })
}

/// Minutes as `shutdown` takes them.
fn delay(text: &Scalar) -> Option<u32> {
    match text.text.as_str() {
        "now" => Some(0),
        minutes => {
            let digits = minutes.strip_prefix('+').unwrap_or(minutes);
            let plain = digits.bytes().all(|b| b.is_ascii_digit());
            digits.parse().ok().filter(|_| plain)
        }
    }
}
