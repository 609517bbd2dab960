//! `rpm-ostree`: a deployment that the next boot will take is not the one that runs.

use std::time::Duration;

use serde::Deserialize;

use super::command::Program;
use super::{Look, Verdict};

const RPM_OSTREE: Program<'_> =
    Program { argv: &["rpm-ostree", "status", "--json"], hint: "it is in the package rpm-ostree" };

/// Deployments in the order in which they would be booted.
#[derive(Debug, Deserialize)]
struct Status {
    deployments: Vec<Deployment>,
}

#[derive(Debug, Deserialize)]
struct Deployment {
    booted: bool,
    /// Written to disk only while the machine goes down.
    #[serde(default)]
    staged: bool,
    /// Somebody, Zincati for one, has said that it must not be, for now.
    #[serde(default, rename = "finalization-locked")]
    locked: bool,
    version: Option<String>,
    checksum: Option<String>,
}

/// Runs it, or `instead`.
pub(super) async fn look(instead: Option<&[String]>, timeout: Duration) -> Look {
    let answer = RPM_OSTREE.run(instead, timeout).await;
    let verdict = match RPM_OSTREE.failure(&answer, &[0], timeout) {
        Some(failure) => failure,
        None => answer.json().map_or_else(|failure| failure, |status| next_boot(&status)),
    };
    answer.look(verdict)
}

fn next_boot(status: &Status) -> Verdict {
    if !status.deployments.iter().any(|deployment| deployment.booted) {
        return Verdict::failed("the running system is none of its deployments");
    }
    // A reboot does not take what is locked.
    let mut bootable = status.deployments.iter().filter(|one| !(one.staged && one.locked));
    let first = bootable.next();
    if let Some(staged) = first.into_iter().chain(bootable).find(|one| one.staged && !one.booted) {
        return Verdict::wanted(format!("{} is staged", staged.shown()));
    }
    match first {
        Some(first) if !first.booted => {
            Verdict::wanted(format!("{} is the one to boot next", first.shown()))
        }
        _ => Verdict::Clear,
    }
}

impl Deployment {
    fn shown(&self) -> String {
        match (&self.version, &self.checksum) {
            (Some(version), _) => format!("deployment {version}"),
            (None, Some(sum)) => format!("deployment {}", sum.chars().take(12).collect::<String>()),
            (None, None) => "a deployment".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn says(json: &str) -> Verdict {
        let argv = ["sh", "-c", "echo warning >&2; printf %s \"$0\"", json].map(str::to_owned);
        look(Some(&argv), Duration::from_secs(60)).await.verdict
    }

    #[tokio::test]
    async fn a_deployment_for_the_next_boot_is_a_reason() {
        let staged = r#"{"deployments": [
            {"booted": false, "staged": true, "version": "38.20230414.0", "checksum": "8523da04"},
            {"booted": true, "version": "38.20230322.0"}], "transaction": null}"#;
        assert_eq!(says(staged).await, Verdict::wanted("deployment 38.20230414.0 is staged"));
        let rolled_back = r#"{"deployments": [
            {"booted": false, "staged": false, "checksum": "8523da044806b21d28963a07"},
            {"booted": true}]}"#;
        let reason = Verdict::wanted("deployment 8523da044806 is the one to boot next");
        assert_eq!(says(rolled_back).await, reason);
    }

    #[tokio::test]
    async fn a_deployment_to_fall_back_on_is_none() {
        assert_eq!(says(r#"{"deployments": [{"booted": true}]}"#).await, Verdict::Clear);
        let fallback = r#"{"deployments": [{"booted": true}, {"booted": false}]}"#;
        assert_eq!(says(fallback).await, Verdict::Clear);
    }

    #[tokio::test]
    async fn a_deployment_that_a_reboot_would_not_take_is_none() {
        let locked = r#"{"deployments": [
            {"booted": false, "staged": true, "finalization-locked": true}, {"booted": true}]}"#;
        assert_eq!(says(locked).await, Verdict::Clear);
    }

    #[tokio::test]
    async fn what_is_no_status_is_a_failure() {
        for json in [
            "",
            "error",
            "{}",
            "[]",
            r#"{"deployments": null}"#,
            r#"{"deployments": []}"#,
            r#"{"deployments": [{"booted": false}]}"#,
            r#"{"deployments": [{}]}"#,
            r#"{"deployments": [{"booted": "yes"}]}"#,
            r#"{"deployments": [{"booted": true}]"#,
        ] {
            assert!(matches!(says(json).await, Verdict::Failed { .. }), "{json}");
        }
    }
}
