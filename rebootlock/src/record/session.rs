//! Somebody who is signed in at a gateway.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Document, UnixTime};

/// Present while somebody is signed in, under a digest of what their browser shows. It hangs on a
/// lease.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// Who.
    pub by: String,
    /// Since when.
    pub since: UnixTime,
    /// When it ends by itself.
    pub until: UnixTime,
    /// Stands for the password or token that was shown. With another one the session is over.
    pub proof: String,
    /// Members of other programs.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

impl Document for Session {}
