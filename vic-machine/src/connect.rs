//! From the target's options to a session, and from there to a logout on every path.

use std::io::IsTerminal as _;
use std::time::Duration;

use secret::Secret;
use url::Url;
use vim25::trust::Trust;
use vim25::{Credentials, Options, Session};

use crate::cli::TargetArgs;
use crate::problem::{Exit, Problem};

/// Time for one call to vSphere.
const CALL_DEADLINE: Duration = Duration::from_secs(60);

/// What the target's options say.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) url: Url,
    /// The datacenter in the URL's path.
    pub(crate) datacenter: Option<String>,
    pub(crate) user: String,
    pub(crate) password: Secret,
    pub(crate) trust: Trust,
    /// PEM of [`Trust::Ca`].
    pub(crate) ca_pem: String,
}

impl Target {
    /// Reads the options; asks for a password on a terminal.
    pub(crate) fn resolve(args: &TargetArgs) -> Result<Self, Problem> {
        let usage = |what: &str| Problem::new(Exit::Usage, what);
        let text = args.target.as_deref().filter(|t| !t.is_empty()).ok_or_else(|| {
            usage("--target argument must be specified").remedy("give the address of vCenter or ESXi with --target")
        })?;
        let with_scheme = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
        let bad = |why: String| {
            usage("--target cannot be used").why(why).remedy("write it as https://host[:port][/datacenter]")
        };
        let mut url = Url::parse(&with_scheme).map_err(|e| bad(e.to_string()))?;
        if url.scheme() != "https" || url.host_str().is_none_or(str::is_empty) {
            return Err(bad("it is no https address".into()));
        }
        let path = percent_decode(url.path().trim_matches('/'));
        if path.contains('/') {
            return Err(bad("its path may only name the datacenter".into())
                .remedy("name a cluster, host or resource pool with --compute-resource"));
        }
        let user = args.user.clone().unwrap_or_else(|| percent_decode(url.username()));
        if user.is_empty() {
            return Err(usage("vSphere user must be specified").remedy("give it with --user"));
        }
        let password = match (&args.password, url.password()) {
            (Some(password), _) => password.clone(),
            (None, Some(password)) => Secret::new(percent_decode(password)),
            (None, None) => ask_password(args, &user)?,
        };
        let _ = (url.set_username(""), url.set_password(None));
        url.set_path("");
        let mut ca_pem = String::new();
        let trust = match (&args.target_ca, args.thumbprint.as_slice()) {
            (_, prints @ [_, ..]) => Trust::Thumbprints(prints.to_vec()),
            (Some(path), _) => {
                ca_pem = std::fs::read_to_string(path).map_err(|e| {
                    Problem::validation(format!("--target-ca {} cannot be read", path.display())).why(e)
                })?;
                Trust::Ca(ca_pem.clone())
            }
            (None, _) => Trust::System,
        };
        Ok(Self { url, datacenter: (!path.is_empty()).then_some(path), user, password, trust, ca_pem })
    }

    /// Opens the session.
    pub(crate) async fn connect(&self) -> Result<Session, Problem> {
        let credentials = Credentials { user: self.user.clone(), password: self.password.clone() };
        let options = Options {
            target: self.url.clone(),
            credentials,
            trust: self.trust.clone(),
            user_agent: format!("vic-machine/{}", crate::VERSION),
            deadline: CALL_DEADLINE,
        };
        let host = self.url.host_str().unwrap_or("").to_owned();
        Session::connect(options)
            .await
            .map_err(|e| Problem::doing(format!("cannot log in to {host} as {}", self.user), &e))
    }
}

fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex = (bytes[i] == b'%').then(|| text.get(i + 1..i + 3)).flatten();
        match hex.and_then(|h| u8::from_str_radix(h, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                i += 3;
            }
            None => {
                out.push(bytes[i]);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn ask_password(args: &TargetArgs, user: &str) -> Result<Secret, Problem> {
    let missing = || {
        Problem::new(Exit::Usage, format!("the password of {user} is missing"))
            .remedy("give it with --password or in VIC_MACHINE_PASSWORD, or run on a terminal to be asked")
    };
    if args.no_input || !std::io::stdin().is_terminal() {
        return Err(missing());
    }
    rpassword::prompt_password(format!("vCenter/ESXi password of {user}: "))
        .map(Secret::new)
        .map_err(|e| missing().why(e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::printer::Output;

    fn args(target: &str) -> TargetArgs {
        TargetArgs {
            target: Some(target.into()),
            user: None,
            password: None,
            thumbprint: Vec::new(),
            target_ca: None,
            output: Output::Text,
            no_input: true,
            debug: 0,
            timeout: None,
            manifest: None,
        }
    }

    #[test]
    fn a_target_is_taken_apart() {
        let t = Target::resolve(&args("ad%40min:p%2Fw@vc.example:8443/dc%201")).unwrap();
        assert_eq!(t.url.as_str(), "https://vc.example:8443/");
        assert_eq!((t.user.as_str(), t.password.reveal()), ("ad@min", "p/w"));
        assert_eq!(t.datacenter.as_deref(), Some("dc 1"));
    }

    #[test]
    fn targets_that_cannot_be_used_say_why_and_show_no_password() {
        for (target, text) in [
            ("u:hunter2@vc/dc/host", "may only name the datacenter"),
            ("http://u:hunter2@vc", "no https address"),
            ("https://u:hunter2@:x", "cannot be used"),
            ("vc", "user must be specified"),
            ("u@vc", "password of u is missing"),
            ("", "must be specified"),
        ] {
            let problem = Target::resolve(&args(target)).unwrap_err();
            assert!(problem.to_string().contains(text), "{target}: {problem}");
            assert!(!format!("{problem:?}").contains("hunter2"), "{problem:?}");
        }
    }
}
