//! What the node's interfaces have carried, from `/proc`.

use std::fs;

use podium_cri::v1;

/// All interfaces of the host but loopback; the one of the default route first.
pub(crate) async fn of_node(now: i64) -> v1::NetworkUsage {
    let read = tokio::task::spawn_blocking(|| {
        let text = |path| fs::read_to_string(path).unwrap_or_default();
        (text("/proc/net/dev"), text("/proc/net/route"))
    });
    let (devices, routes) = read.await.unwrap_or_default();
    usage(&devices, &routes, now)
}

/// From the texts of `/proc/net/dev` and `/proc/net/route`.
fn usage(devices: &str, routes: &str, now: i64) -> v1::NetworkUsage {
    let default = routes.lines().find_map(|line| {
        let mut fields = line.split_whitespace();
        let name = fields.next()?;
        (fields.next()? == "00000000").then_some(name)
    });
    let mut found = v1::NetworkUsage { timestamp: now, ..v1::NetworkUsage::default() };
    for one in devices.lines().filter_map(interface).filter(|one| one.name != "lo") {
        if default == Some(one.name.as_str()) {
            found.default_interface = Some(one);
        } else {
            found.interfaces.push(one);
        }
    }
    found
}

/// One line: the name, eight numbers received, eight sent; the first are bytes, the third ones errors.
fn interface(line: &str) -> Option<v1::NetworkInterfaceUsage> {
    let (name, numbers) = line.split_once(':')?;
    let numbers: Vec<u64> = numbers.split_whitespace().filter_map(|number| number.parse().ok()).collect();
    let at = |index: usize| numbers.get(index).map(|value| v1::UInt64Value { value: *value });
    at(10)?;
    Some(v1::NetworkInterfaceUsage {
        name: name.trim().to_owned(),
        rx_bytes: at(0),
        rx_errors: at(2),
        tx_bytes: at(8),
        tx_errors: at(10),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_of_the_host() {
        let devices = "Inter-|   Receive  |  Transmit\n face |bytes packets errs drop\n    \
            lo: 9 1 0 0 0 0 0 0 9 1 0 0 0 0 0 0\n  eth0: 100 2 3 0 0 0 0 0 200 4 5 0 0 0 0 0\n  \
            veth1: 7 1 0 0 0 0 0 0 8 1 0 0 0 0 0 0\n";
        let routes = "Iface\tDestination\tGateway\nveth1\t0100000A\t0\neth0\t00000000\t0101A8C0\n";
        let found = usage(devices, routes, 3);
        let first = found.default_interface.unwrap();
        let numbers = |one: &v1::NetworkInterfaceUsage| {
            [one.rx_bytes, one.rx_errors, one.tx_bytes, one.tx_errors].map(|number| number.unwrap().value)
        };
        assert_eq!((first.name.as_str(), numbers(&first)), ("eth0", [100, 3, 200, 5]));
        assert_eq!(found.interfaces.len(), 1);
        assert_eq!(
            (found.interfaces[0].name.as_str(), numbers(&found.interfaces[0])),
            ("veth1", [7, 0, 8, 0])
        );
    }
}
