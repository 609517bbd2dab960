//! `type = "cluster"`

use std::fmt;

use serde::{Deserialize, Deserializer};
use toml::Spanned;

use super::super::table::Fault;
use super::{GateTable, names};
use crate::id::Group;

/// How well the other machines must be for this one to go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClusterRules {
    /// So many must be healthy, counted as if this machine were down already.
    pub min_healthy: Option<MinHealthy>,
    /// No more than so many may be unhealthy.
    pub max_unhealthy: Option<u64>,
    /// Machines, by id or host name, that must not be the only healthy ones left.
    pub fallback: Vec<String>,
    /// Whose machines are counted; this machine's groups if there are none.
    pub groups: Vec<Group>,
}

/// How many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MinHealthy {
    /// So many machines.
    Count(u64),
    /// So many of a hundred, from 1 to 100.
    Percent(u8),
}

impl fmt::Display for MinHealthy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl<'de> Deserialize<'de> for MinHealthy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = MinHealthy;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of machines from 1 to 1000000, or a share as \"60%\"")
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<MinHealthy, E> {
                let count = u64::try_from(number).ok().filter(|n| (1..=1_000_000).contains(n));
                count.map(MinHealthy::Count).ok_or_else(|| {
                    E::custom(format!("{number} is not a number of machines from 1 to 1000000"))
                })
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<MinHealthy, E> {
                let digits = text.strip_suffix('%').unwrap_or_default();
                let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
                let percent = digits.parse().ok().filter(|n| plain && (1..=100).contains(n));
                percent.map(MinHealthy::Percent).ok_or_else(|| {
                    E::custom(format!("{text:?} is not a share from \"1%\" to \"100%\""))
                })
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

pub(super) fn check(table: GateTable) -> Result<ClusterRules, Fault> {
    let groups = table.groups.map(Spanned::into_inner).unwrap_or_default();
    let group = |group: Spanned<String>| {
        group.get_ref().parse::<Group>().map_err(|problem| Fault::at(&group, problem))
    };
    Ok(ClusterRules {
        min_healthy: table.min_healthy.map(Spanned::into_inner),
        max_unhealthy: table.max_unhealthy.map(|max| max.get_ref().get()),
        fallback: names("fallback", table.fallback)?,
        groups: groups.into_iter().map(group).collect::<Result<_, _>>()?,
    })
}
