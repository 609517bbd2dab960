//! What is around every page.

use maud::{DOCTYPE, Markup, html};
use rebootlock::record::UnixTime;

use super::moment::Ages;
use super::session::Token;
use super::words::text;
use crate::auth::Role;

/// Who looks at a page.
#[derive(Debug, Clone, Default)]
pub(super) struct Viewer {
    /// Their name, if they are signed in.
    pub(super) name: Option<String>,
    /// What they may do.
    pub(super) role: Option<Role>,
    /// What their browser shows.
    pub(super) token: Option<Token>,
    /// Whether anybody can sign in at all.
    pub(super) may_sign_in: bool,
}

impl Viewer {
    /// Whether they are shown what can be done.
    pub(super) fn may_act(&self) -> bool {
        self.role == Some(Role::Operator) && self.token.is_some()
    }
}

/// The page that is kept up to date.
pub(super) fn live(viewer: &Viewer, state: &str, as_of: &Markup, content: &Markup) -> Markup {
    let now = UnixTime::now().to_text();
    let operator = viewer.may_act().then_some("");
    let content = html! {
        main #main {
            h1.unseen { "Reboots of the fleet" }
            (content)
        }
    };
    document(html! {
        body data-now=(now) data-state=(state) data-operator=[operator] {
            a.skip href="#main" { "To the content" }
            header.top {
                (brand())
                div.now {
                    p #live role="status" { noscript { "Reload to see what is new" } }
                    (as_of)
                }
                (who(viewer))
            }
            (content)
            (foot())
        }
    })
}

/// A page with a form, or with a few words.
pub(super) fn plain(viewer: &Viewer, content: &Markup) -> Markup {
    document(html! {
        body {
            header.top { (brand()) (who(viewer)) }
            main #main { div.narrow { (content) } }
            (foot())
        }
    })
}

fn document(body: Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "rebootlock" }
                link rel="icon" href="icon.svg" type="image/svg+xml";
                link rel="stylesheet" href="page.css";
                script src="page.js" defer {}
            }
            (body)
        }
    }
}

fn brand() -> Markup {
    html! { a.brand href="./" { img src="icon.svg" alt="" width="24" height="24"; "rebootlock" } }
}

fn who(viewer: &Viewer) -> Markup {
    html! {
        @match (&viewer.name, &viewer.token) {
            (Some(name), Some(token)) => {
                form.who method="post" action="sign-out" {
                    span {
                        (text(name))
                        @if viewer.role == Some(Role::Viewer) { span.soft { " (may look)" } }
                    }
                    (stamp(token, "sign-out"))
                    button.plain type="submit" { "Sign out" }
                }
            }
            _ => @if viewer.may_sign_in {
                nav.who aria-label="Account" { a href="sign-in" { "Sign in" } }
            }
        }
    }
}

/// The field that shows that a form is ours.
pub(super) fn stamp(token: &Token, purpose: &str) -> Markup {
    html! { input type="hidden" name="stamp" value=(token.stamp(purpose)); }
}

fn foot() -> Markup {
    html! { footer.foot { "rebootlock-gateway " (env!("CARGO_PKG_VERSION")) } }
}

/// When what is shown was seen.
pub(super) fn as_of(as_of: Option<UnixTime>, ages: Ages) -> Markup {
    html! {
        span #as-of .inline {
            @if let Some(as_of) = as_of { "as of " (ages.time(as_of)) }
        }
    }
}
