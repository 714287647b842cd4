//! `loopback`: brings up `lo`.

use kybern_linux::rtnl::Rtnl;
use serde_json::{Value, json};

use super::{in_netns, open_netns};
use crate::error::PluginError;
use crate::exec::{Call, Command};

pub(super) fn run(call: &Call<'_>, input: &Value) -> Result<Option<Value>, PluginError> {
    if call.command == Command::Del {
        return Ok(None);
    }
    let netns = open_netns(call)?;
    in_netns(&netns, || {
        let mut rtnl = Rtnl::open()?;
        let lo = rtnl.require_link("lo")?;
        Ok(rtnl.set_up(lo.index)?)
    })?;
    Ok((call.command == Command::Add).then(|| {
        json!({
            "cniVersion": input["cniVersion"],
            "interfaces": [{"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": call.netns}],
            "ips": [{"address": "127.0.0.1/8", "interface": 0}, {"address": "::1/128", "interface": 0}],
        })
    }))
}
