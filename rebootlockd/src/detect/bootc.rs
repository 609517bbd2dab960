//! `bootc`: the next boot will take another image.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::command::Program;
use super::{Look, Verdict};

const BOOTC: Program<'_> =
    Program { argv: &["bootc", "status", "--format=json"], hint: "it is in the package bootc" };

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Host {
    api_version: String,
    status: Status,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    // A missing member is not the same as none: that would be another document.
    #[serde(deserialize_with = "Option::deserialize")]
    staged: Option<Staged>,
    #[serde(deserialize_with = "Option::deserialize")]
    booted: Option<Value>,
    #[serde(default)]
    rollback_queued: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Staged {
    /// Kept back until somebody says that it may be applied.
    #[serde(default)]
    download_only: bool,
    #[serde(default)]
    image: Value,
}

/// Runs it, or `instead`.
pub(super) async fn look(instead: Option<&[String]>, timeout: Duration) -> Look {
    let answer = BOOTC.run(instead, timeout).await;
    let verdict = match BOOTC.failure(&answer, &[0], timeout) {
        Some(failure) => failure,
        None => answer.json().map_or_else(|failure| failure, |host| next_boot(&host)),
    };
    answer.look(verdict)
}

fn next_boot(Host { api_version, status }: &Host) -> Verdict {
    if !api_version.starts_with("org.containers.bootc/v1") {
        return Verdict::failed(format!(
            "its answer is of version {api_version:?}; known is org.containers.bootc/v1"
        ));
    }
    if status.booted.is_none() {
        return Verdict::failed("the running system was not booted from an image of bootc's");
    }
    match &status.staged {
        Some(staged) if !staged.download_only => Verdict::wanted(staged.shown()),
        _ if status.rollback_queued => Verdict::wanted("a rollback is queued for the next boot"),
        _ => Verdict::Clear,
    }
}

impl Staged {
    fn shown(&self) -> String {
        let text = |pointer| self.image.pointer(pointer).and_then(Value::as_str);
        match (text("/image/image"), text("/version")) {
            (Some(image), Some(version)) => format!("image {image} {version} is staged"),
            (Some(image), None) => format!("image {image} is staged"),
            _ => "an image is staged".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn says(status: &str) -> Verdict {
        says_all(&format!(
            r#"{{"apiVersion": "org.containers.bootc/v1", "kind": "BootcHost", "status": {status}}}"#
        ))
        .await
    }

    async fn says_all(json: &str) -> Verdict {
        let argv = ["printf", "%s", json].map(str::to_owned);
        look(Some(&argv), Duration::from_secs(60)).await.verdict
    }

    #[tokio::test]
    async fn a_staged_image_is_a_reason() {
        let staged = r#"{"staged": {"image": {"image": {"image": "quay.io/x/os:1", "transport":
            "registry"}, "version": "10.2"}}, "booted": {"image": null}, "rollback": null}"#;
        assert_eq!(says(staged).await, Verdict::wanted("image quay.io/x/os:1 10.2 is staged"));
        let bare = r#"{"staged": {"image": null}, "booted": {}}"#;
        assert_eq!(says(bare).await, Verdict::wanted("an image is staged"));
        let back = r#"{"staged": null, "booted": {}, "rollbackQueued": true}"#;
        assert_eq!(says(back).await, Verdict::wanted("a rollback is queued for the next boot"));
    }

    #[tokio::test]
    async fn nothing_staged_or_only_downloaded_is_none() {
        let none = r#"{"staged": null, "booted": {}, "rollback": {}, "rollbackQueued": false}"#;
        assert_eq!(says(none).await, Verdict::Clear);
        let downloaded = r#"{"staged": {"downloadOnly": true}, "booted": {}}"#;
        assert_eq!(says(downloaded).await, Verdict::Clear);
    }

    #[tokio::test]
    async fn what_is_no_status_is_a_failure() {
        for status in [
            "null",
            "{}",
            r#"{"booted": {}}"#,
            r#"{"staged": null}"#,
            r#"{"staged": null, "booted": null}"#,
            r#"{"staged": true, "booted": {}}"#,
            r#"{"staged": null, "booted": {}, "rollbackQueued": "no"}"#,
        ] {
            assert!(matches!(says(status).await, Verdict::Failed { .. }), "{status}");
        }
        let later = r#"{"apiVersion": "org.containers.bootc/v2", "status":
            {"staged": null, "booted": {}}}"#;
        for json in ["", "error: not root", later] {
            assert!(matches!(says_all(json).await, Verdict::Failed { .. }), "{json}");
        }
    }
}
