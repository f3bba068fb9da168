//! Links and their addresses: the few netlink requests that the rest of this folder is made of.

use std::net::IpAddr;

use futures::TryStreamExt;
use rtnetlink::packet_route::address::AddressHeaderFlags;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::{Handle, LinkUnspec};

use crate::error::{Error, Result};

/// A link by name.
pub(super) async fn find(handle: &Handle, name: &str) -> Result<Option<LinkMessage>> {
    match handle.link().get().match_name(name.to_owned()).execute().try_next().await {
        Ok(link) => Ok(link),
        Err(error) if is_no_device(&error) => Ok(None),
        Err(source) => Err(Error::Netlink { step: format!("looking for link {name}"), source }),
    }
}

/// The number of a link.
pub(super) async fn index(handle: &Handle, name: &str) -> Result<Option<u32>> {
    Ok(find(handle, name).await?.map(|link| link.header.index))
}

/// The number of a link that must be there.
pub(super) async fn require(handle: &Handle, name: &str) -> Result<u32> {
    let missing = || Error::io(format!("looking for link {name}"), nix::errno::Errno::ENODEV);
    index(handle, name).await?.ok_or_else(missing)
}

/// The longest packet of a link, bytes.
pub(super) fn mtu(link: &LinkMessage) -> Option<u32> {
    link.attributes.iter().find_map(|attribute| if let LinkAttribute::Mtu(mtu) = attribute { Some(*mtu) } else { None })
}

/// The longest packet of the link that carries an address; none where that is a loopback device, which carries no packet to another machine.
pub(super) async fn mtu_of_address(handle: &Handle, address: IpAddr) -> Result<Option<u32>> {
    let mut found = handle.address().get().set_address_filter(address).execute();
    let Some(found) = found.try_next().await.map_err(netlink(format!("looking for address {address}")))? else { return Ok(None) };
    let mut links = handle.link().get().match_index(found.header.index).execute();
    let link = links.try_next().await.map_err(netlink(format!("looking at the link of {address}")))?;
    Ok(link.filter(|link| !link.header.flags.contains(LinkFlags::Loopback)).as_ref().and_then(mtu))
}

/// Raises a link, and sets its longest packet if one is said.
pub(super) async fn raise(handle: &Handle, index: u32, mtu: Option<u32>) -> Result<()> {
    let change = LinkUnspec::new_with_index(index).up();
    let change = match mtu {
        Some(mtu) => change.mtu(mtu),
        None => change,
    };
    handle.link().set(change.build()).execute().await.map_err(netlink(format!("raising link {index}")))
}

/// Has a bridge keep the hardware address that it has. Of itself it takes the lowest of its ports', and each time a port with a lower one comes or
/// goes its pods would speak to a gateway that is no more until they have given it up: eight seconds, over version 6.
pub(super) async fn keep_hardware_address(handle: &Handle, bridge: &str) -> Result<()> {
    let Some(link) = find(handle, bridge).await? else { return Ok(()) };
    let address =
        link.attributes.iter().find_map(|attribute| if let LinkAttribute::Address(address) = attribute { Some(address) } else { None });
    let Some(address) = address else { return Ok(()) };
    let change = LinkUnspec::new_with_index(link.header.index).address(address.clone()).build();
    handle.link().set(change).execute().await.map_err(netlink(format!("keeping the hardware address of {bridge}")))
}

/// Adds an address, to be used at once: nobody is asked whether it is taken.
pub(super) async fn add_address(handle: &Handle, index: u32, address: IpAddr, prefix: u8) -> Result<()> {
    let mut request = handle.address().add(index, address, prefix).replace();
    if address.is_ipv6() {
        request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
    }
    request.execute().await.map_err(netlink(format!("adding address {address}/{prefix}")))
}

/// Deletes a link; one that went by itself meanwhile (with its peer's namespace) is fine.
pub(super) async fn delete(handle: &Handle, index: u32) -> Result<()> {
    match handle.link().del(index).execute().await {
        Err(error) if !is_no_device(&error) => Err(Error::Netlink { step: format!("removing link {index}"), source: error }),
        _ => Ok(()),
    }
}

/// Deletes a link by name, if there is one.
pub(super) async fn delete_named(handle: &Handle, name: &str) -> Result<()> {
    match index(handle, name).await? {
        Some(index) => delete(handle, index).await,
        None => Ok(()),
    }
}

fn is_no_device(error: &rtnetlink::Error) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(inner) if inner.raw_code().abs() == nix::errno::Errno::ENODEV as i32)
}

/// What to call a failure of netlink.
pub(super) fn netlink(step: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> Error {
    let step = step.into();
    move |source| Error::Netlink { step, source }
}
