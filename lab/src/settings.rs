//! What a lab is: decided at its first start, kept in its folder.

use std::net::SocketAddr;

use secret::Secret;
use serde::{Deserialize, Serialize};

use crate::dir::LabDir;
use crate::error::{Error, Result};
use crate::net::{Published, Range};

/// Which product the lab behaves as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Shape {
    /// vCenter: a datacenter with a cluster.
    Vcenter,
    /// One ESXi host.
    Esxi,
}

impl Shape {
    /// The administrator's account.
    pub(crate) fn user(self) -> &'static str {
        match self {
            Self::Vcenter => "administrator@vsphere.local",
            Self::Esxi => "root",
        }
    }
}

/// What a lab is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Settings {
    /// Which product it behaves as.
    pub shape: Shape,
    /// How many hosts the cluster has.
    pub hosts: u32,
    /// Where the API listens on the machine.
    pub listen: SocketAddr,
    /// Range of "VM Network".
    pub range: String,
    /// Password of [`Shape::user`].
    #[serde(serialize_with = "secret::expose")]
    pub password: Secret,
    /// More users, with the same password and the read-only role.
    #[serde(default)]
    pub readonly: Vec<String>,
    /// vSphere's instance UUID.
    pub instance: String,
    /// Published ports.
    #[serde(default)]
    pub publish: Vec<Published>,
}

/// What the admin asks for; what is absent stays as it is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted {
    /// ESXi instead of vCenter.
    pub esxi: bool,
    /// Number of hosts.
    pub hosts: Option<u32>,
    /// API listener.
    pub listen: Option<SocketAddr>,
    /// Range of "VM Network".
    pub range: Option<Range>,
    /// Password.
    pub password: Option<Secret>,
    /// More users with the read-only role.
    pub readonly: Vec<String>,
    /// More published ports.
    pub publish: Vec<Published>,
}

impl Settings {
    /// The lab's settings; `None` before its first start.
    ///
    /// # Errors
    /// When the document is not readable.
    pub(crate) fn load(dir: &LabDir) -> Result<Option<Self>> {
        crate::store::read_json(&dir.settings())
    }

    /// Stores the settings.
    ///
    /// # Errors
    /// When they cannot be written.
    pub(crate) fn store(&self, dir: &LabDir) -> Result<()> {
        crate::store::write_json(&dir.settings(), self)
    }

    /// Settles what the lab is from what it was and what is wanted.
    ///
    /// # Errors
    /// When something is wanted that an existing lab cannot become.
    pub(crate) fn settle(known: Option<Self>, wanted: &Wanted) -> Result<Self> {
        let mut settings = known.clone().unwrap_or_else(|| Self {
            shape: if wanted.esxi { Shape::Esxi } else { Shape::Vcenter },
            hosts: 1,
            listen: SocketAddr::from(([127, 0, 0, 1], 8989)),
            range: "192.168.100.0/24".into(),
            password: Secret::new(format!("Lab-{}!", uuid::Uuid::new_v4().simple())),
            readonly: Vec::new(),
            instance: uuid::Uuid::new_v4().to_string(),
            publish: Vec::new(),
        });
        if known.is_some() {
            let fixed = |what: &str| {
                Error::Refused(format!(
                    "this lab exists with another {what}: use another --dir, or end it with `vic-lab down --wipe`"
                ))
            };
            if wanted.esxi && settings.shape != Shape::Esxi {
                return Err(fixed("shape"));
            }
            if wanted.hosts.is_some_and(|n| n != settings.hosts) {
                return Err(fixed("number of hosts"));
            }
            if wanted.range.is_some_and(|r| r.to_string() != settings.range) {
                return Err(fixed("network range"));
            }
        }
        if let Some(hosts) = wanted.hosts {
            if settings.shape == Shape::Esxi && hosts != 1 {
                return Err(Error::Refused("an ESXi lab is one host: leave --hosts out".into()));
            }
            settings.hosts = hosts;
        }
        if let Some(range) = wanted.range {
            settings.range = range.to_string();
        }
        if let Some(listen) = wanted.listen {
            settings.listen = listen;
        }
        if let Some(password) = &wanted.password {
            settings.password = password.clone();
        }
        for user in &wanted.readonly {
            if !settings.readonly.contains(user) {
                settings.readonly.push(user.clone());
            }
        }
        for publish in &wanted.publish {
            settings.publish.retain(|p| p.listen != publish.listen);
            settings.publish.push(publish.clone());
        }
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lab_keeps_its_shape_and_password() {
        let first = Settings::settle(None, &Wanted { esxi: true, ..Wanted::default() }).unwrap();
        let again = Settings::settle(Some(first.clone()), &Wanted::default()).unwrap();
        assert_eq!(again.shape, Shape::Esxi);
        assert_eq!(again.password, first.password);
        let vcenter = Settings::settle(None, &Wanted::default()).unwrap();
        Settings::settle(Some(vcenter.clone()), &Wanted { esxi: true, ..Wanted::default() }).unwrap_err();
        Settings::settle(Some(vcenter), &Wanted { hosts: Some(3), ..Wanted::default() }).unwrap_err();
    }
}
