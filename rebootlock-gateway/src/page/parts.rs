//! The parts of the page that change, each by itself.

use maud::{Markup, PreEscaped, Render as _, html};
use sha2::{Digest as _, Sha256};

use super::reply::hex;

/// One part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    /// Its id on the page.
    pub(super) id: String,
    /// Of what it says.
    pub(super) digest: u64,
    /// The element with this id.
    pub(super) html: String,
}

impl Part {
    /// A part, drawn without ages.
    pub(super) fn new(id: impl Into<String>, html: String) -> Self {
        let digest = Sha256::digest(&html);
        let first = digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte));
        Self { id: id.into(), digest: first, html }
    }
}

/// The whole page, in parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parts {
    /// One for each group, in the order in which they are shown.
    pub(super) groups: Vec<Part>,
    /// The others.
    pub(super) others: Vec<Part>,
    /// The same text on every gateway that shows the same.
    pub(super) state: String,
}

impl Parts {
    /// A page of these.
    pub(super) fn new(groups: Vec<Part>, others: Vec<Part>) -> Self {
        let mut digest = Sha256::new();
        for part in groups.iter().chain(&others) {
            digest.update(part.digest.to_be_bytes());
        }
        let state = hex(&digest.finalize()[..8]);
        Self { groups, others, state }
    }

    /// All groups in one.
    pub(super) fn all_groups(&self) -> Part {
        let groups = self.groups.iter().map(|part| PreEscaped(part.html.as_str()));
        Part::new("groups", frame(groups.map(|part| part.render())).into_string())
    }
}

/// Where the groups are.
pub(super) fn frame(groups: impl Iterator<Item = Markup>) -> Markup {
    html! { div #groups .section { @for group in groups { (group) } } }
}
