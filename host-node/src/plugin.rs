//! Our own network for pods of another runtime: this same program as a CNI plugin, which asks the daemon.
//!
//! A CRI runtime has CNI plugins make the network of its sandboxes. The daemon puts a configuration where the runtime looks for one, and beside its
//! plugins a link to this program. Called through that link, the program hands the request to the daemon's socket, and the daemon plugs the pod in as it
//! does its own runtime's. DEL is answered without asking: the daemon unplugs a pod before its sandbox goes, and finds what it missed when it starts.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use crate::error::{Error, Result, Step};
use crate::file;
use crate::link::Reference;
use crate::net::shape::Bandwidth;
use crate::node::Node;

/// The plugin's name: of the link to this program, and in the configuration.
const NAME: &str = "pintle";
/// First in the order of file names, which decides.
const CONFIGURATION: &str = "00-pintle.conflist";
const CNI_VERSION: &str = "1.0.0";
const SUPPORTED: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// Longest request.
const REQUEST_BYTES_MAX: u64 = 1 << 20;
/// CNI's code for errors of a plugin's own.
const OWN_ERROR: u32 = 100;

/// Runs this program as the plugin if it was called as one; does not return then.
pub fn maybe_run() {
    let called = std::env::args_os().next().is_some_and(|name| Path::new(&name).file_name().is_some_and(|name| name == NAME));
    let Some(command) = std::env::var("CNI_COMMAND").ok().filter(|_| called) else { return };
    let code = match answer(&command) {
        Ok(result) => {
            println!("{result}");
            0
        }
        Err(error) => {
            println!("{}", json!({ "cniVersion": CNI_VERSION, "code": OWN_ERROR, "msg": Error::chain(&error) }));
            1
        }
    };
    std::process::exit(code);
}

fn answer(command: &str) -> Result<Value> {
    if command != "ADD" {
        return Ok(json!({ "cniVersion": CNI_VERSION, "supportedVersions": SUPPORTED }));
    }
    let mut text = String::new();
    std::io::stdin().take(REQUEST_BYTES_MAX).read_to_string(&mut text).step(|| "reading the configuration".into())?;
    let config: Value = serde_json::from_str(&text).map_err(|source| Error::Malformed { what: "the configuration".into(), source })?;
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let request = json!({ "netns": variable("CNI_NETNS"), "args": variable("CNI_ARGS") });
    let socket = config["socket"].as_str().ok_or_else(|| Error::invalid("socket", "is missing in the configuration"))?;
    let asked = || -> std::io::Result<String> {
        let mut stream = std::os::unix::net::UnixStream::connect(socket)?;
        stream.write_all(request.to_string().as_bytes())?;
        stream.shutdown(std::net::Shutdown::Write)?;
        let mut answer = String::new();
        stream.take(REQUEST_BYTES_MAX).read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = asked().step(|| format!("asking host-node at {socket}"))?;
    let answer: Value = serde_json::from_str(&answer).map_err(|source| Error::Malformed { what: "host-node's answer".into(), source })?;
    match answer["addresses"].as_array() {
        Some(addresses) => Ok(result(&config, &variable("CNI_NETNS"), addresses)),
        None => Err(Error::Answer(answer["error"].as_str().unwrap_or("no answer").to_owned())),
    }
}

/// The result in the form of the version that was asked for.
fn result(config: &Value, netns: &str, addresses: &[Value]) -> Value {
    let version = config["cniVersion"].as_str().unwrap_or(CNI_VERSION);
    let ip = |address: &Value| {
        let text = address.as_str().unwrap_or_default();
        let (family, length) = if text.contains(':') { ("6", 128) } else { ("4", 32) };
        let mut ip = json!({ "address": format!("{text}/{length}"), "interface": 0 });
        if version.starts_with("0.") {
            ip["version"] = json!(family);
        }
        ip
    };
    let ips: Vec<Value> = addresses.iter().map(ip).collect();
    json!({ "cniVersion": version, "interfaces": [{ "name": "eth0", "sandbox": netns }], "ips": ips, "dns": {} })
}

/// Puts configuration and link where the runtime looks for them, and serves the plugin from now on.
pub fn start(node: &Rc<Node>, conf_dir: &Path, bin_dir: &Path) -> Result<()> {
    let socket = node.options.run_dir.join("cni.sock");
    let _ = std::fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).step(|| format!("listening at {}", socket.display()))?;
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o600)).step(|| "closing the socket to others".into())?;
    tokio::task::spawn_local(serve(node.clone(), listener));
    install(conf_dir, bin_dir, &socket)
}

fn install(conf_dir: &Path, bin_dir: &Path, socket: &Path) -> Result<()> {
    for directory in [conf_dir, bin_dir] {
        std::fs::create_dir_all(directory).step(|| format!("making {}", directory.display()))?;
    }
    let own = std::env::current_exe().step(|| "finding this program".into())?;
    let (link, fresh) = (bin_dir.join(NAME), bin_dir.join(format!(".{NAME}.new")));
    let _ = std::fs::remove_file(&fresh);
    let linked = std::os::unix::fs::symlink(own, &fresh).and_then(|()| std::fs::rename(&fresh, &link));
    linked.step(|| format!("linking {}", link.display()))?;
    let config = json!({ "cniVersion": CNI_VERSION, "name": NAME, "plugins": [{ "type": NAME, "socket": socket }] });
    file::replace(&conf_dir.join(CONFIGURATION), config.to_string().as_bytes(), 0o644)
}

/// Takes away what [`start`] put where a runtime looks, if it is of the node with this run directory.
pub fn uninstall(conf_dir: &Path, bin_dir: &Path, run_dir: &Path) {
    let path = conf_dir.join(CONFIGURATION);
    let ours = std::fs::read_to_string(&path).is_ok_and(|text| text.contains(&*run_dir.to_string_lossy()));
    if ours {
        let _ = std::fs::remove_file(path);
        let _ = std::fs::remove_file(bin_dir.join(NAME));
    }
}

async fn serve(node: Rc<Node>, listener: UnixListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::task::spawn_local(serve_one(node.clone(), stream));
            }
            Err(error) => {
                tracing::warn!(%error, "a plugin's connection was not taken");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve_one(node: Rc<Node>, mut stream: UnixStream) {
    let mut text = String::new();
    let answer = match (&mut stream).take(REQUEST_BYTES_MAX).read_to_string(&mut text).await {
        Ok(_) => match plug_in(&node, &text).await {
            Ok(addresses) => json!({ "addresses": addresses }),
            Err(error) => json!({ "error": Error::chain(&error) }),
        },
        Err(error) => json!({ "error": error.to_string() }),
    };
    if let Err(error) = stream.write_all(answer.to_string().as_bytes()).await {
        tracing::debug!(%error, "a plugin did not wait for its answer");
    }
}

async fn plug_in(node: &Node, request: &str) -> Result<Vec<std::net::IpAddr>> {
    let request: Value = serde_json::from_str(request).map_err(|source| Error::Malformed { what: "a plugin's request".into(), source })?;
    let args = request["args"].as_str().unwrap_or_default();
    let arg = |name: &str| args.split(';').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name).map_or("", |pair| pair.1);
    let reference = Reference::core("pods", arg("K8S_POD_NAMESPACE"), arg("K8S_POD_NAME")).with_uid(arg("K8S_POD_UID"));
    let view = node.roster.find(&reference).ok_or_else(|| Error::invalid("CNI_ARGS", format!("no pod of this node: {args:?}")))?;
    let pod = view.pod.borrow().clone();
    let path = PathBuf::from(request["netns"].as_str().unwrap_or_default());
    let namespace = std::fs::File::open(&path).step(|| format!("opening {}", path.display()))?;
    node.network.attach(crate::pod::record::uid(&pod), namespace.into(), Bandwidth::of(&pod)?).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_has_the_form_of_the_version_that_was_asked_for() {
        let check = |version: &str, address: &str, expected: Value| {
            let result = result(&json!({ "cniVersion": version }), "/n", &[json!(address)]);
            assert_eq!((&result["cniVersion"], &result["ips"][0]), (&json!(version), &expected));
        };
        check("1.0.0", "10.0.0.2", json!({ "address": "10.0.0.2/32", "interface": 0 }));
        check("0.4.0", "fd00::2", json!({ "address": "fd00::2/128", "interface": 0, "version": "6" }));
    }

    #[test]
    fn only_the_nodes_own_configuration_is_taken_away() {
        let dir = crate::file::TestDir::new("plugin");
        let (conf, bin) = (dir.0.join("conf"), dir.0.join("bin"));
        install(&conf, &bin, Path::new("/run/mine/cni.sock")).expect("installed");
        let config = std::fs::read_to_string(conf.join(CONFIGURATION)).expect("a configuration");
        assert!(config.contains("/run/mine/cni.sock") && bin.join(NAME).exists(), "{config}");
        uninstall(&conf, &bin, Path::new("/run/other"));
        assert!(conf.join(CONFIGURATION).exists());
        uninstall(&conf, &bin, Path::new("/run/mine"));
        assert!(!conf.join(CONFIGURATION).exists() && !bin.join(NAME).exists());
    }
}
