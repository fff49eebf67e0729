//! Another address in the place of one that stands: what a DHCP server may ask for in the middle of everything.

use std::io;
use std::net::Ipv4Addr;

use super::apply::Maker;
use super::capture::{self, Virtual};
use super::{Address, Link, Mac, Route};

/// An interface of the node as it is here.
#[derive(Clone, Debug)]
pub(super) struct Here {
    /// The kernel's number of it.
    pub(super) number: u32,
    /// Its name here.
    pub(super) name: String,
    /// The hardware address that it goes by now.
    pub(super) mac: Mac,
}

impl Here {
    /// Finds it as [`super::apply()`] does.
    ///
    /// # Errors
    /// It is not there, or has no hardware address.
    pub(super) fn of(link: &Link, stand_for_cards: &Virtual) -> io::Result<Self> {
        let mut maker = Maker::new(stand_for_cards)?;
        let missing = |what: &str| io::Error::new(io::ErrorKind::NotFound, format!("the interface {what}"));
        let number = maker.find(link)?.ok_or_else(|| missing("is not there"))?;
        let mut links = capture::links(&mut maker.netlink, &mut Vec::new())?;
        let (name, message) = links.remove(&number).ok_or_else(|| missing("has just gone"))?;
        let mac = capture::current_mac(&message).ok_or_else(|| missing("has no hardware address"))?;
        Ok(Self { number, name, mac })
    }
}

/// An address that goes, the one that comes, and who passes packets on from there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    /// The one that goes, and the bits of its network.
    pub(super) from: (Ipv4Addr, u8),
    /// The one that comes.
    pub(super) to: (Ipv4Addr, u8),
    /// Who passes packets on, if that is said.
    pub(super) router: Option<Ipv4Addr>,
}

impl Change {
    /// Makes it, and has the node's routes over this interface stand on the new address. Gives what could not be done;
    /// if the new address cannot be put, the old one stays.
    pub(super) fn apply(self, here: &Here, routes: &mut Vec<Route>) -> Vec<String> {
        self.try_to(here, routes).unwrap_or_else(|error| vec![format!("putting {}: {error}", self.to.0)])
    }

    fn try_to(self, here: &Here, routes: &mut Vec<Route>) -> io::Result<Vec<String>> {
        let mut maker = Maker::new(&[])?;
        let own = |(address, prefix): (Ipv4Addr, u8)| Address {
            address: address.into(),
            prefix,
            valid_seconds: None,
            no_prefix_route: false,
            lease: None,
        };
        maker.add_address(here.number, &own(self.to))?;
        maker.tried(&format!("taking {} away", self.from.0), |maker| {
            maker.remove_address(here.number, &own(self.from))?;
            // The first address of a network takes the others of it with it.
            maker.add_address(here.number, &own(self.to))
        });
        self.turn(routes);
        // Those without a router first, as always: others are reached by them.
        routes.sort_by_key(|route| route.via.is_some());
        for route in routes {
            let what = format!("route to {}/{} in table {}", route.to, route.prefix, route.table);
            maker.tried(&what, |maker| maker.replace_route(here.number, route));
        }
        Ok(maker.problems)
    }

    /// The routes as they have to be with the new address.
    fn turn(self, routes: &mut Vec<Route>) {
        let old = self.from.0.into();
        // The kernel makes that of the new network by itself.
        routes.retain(|route| {
            route.to.is_ipv4() && !(route.source == Some(old) && route.via.is_none() && route.scope != 0)
        });
        for route in routes {
            if route.source == Some(old) {
                route.source = Some(self.to.0.into());
            }
            if let (0, Some(_), Some(router)) = (route.prefix, route.via, self.router) {
                route.via = Some(router.into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Leads, routes};
    use super::*;

    fn route(to: [u8; 4], prefix: u8, via: Option<[u8; 4]>, source: Option<[u8; 4]>, scope: u8) -> Route {
        Route {
            to: to.into(),
            prefix,
            via: via.map(Into::into),
            over: Some("eth0".into()),
            source: source.map(Into::into),
            metric: None,
            on_link: false,
            table: routes::MAIN,
            leads: Leads::On,
            protocol: 4,
            scope,
            mtu: None,
            hop_limit: None,
        }
    }

    #[test]
    fn routes_follow_to_the_new_address_and_its_router() {
        let old = [10, 0, 0, 20];
        let mut routes = vec![
            route([10, 0, 0, 0], 24, None, Some(old), 253),
            route([0; 4], 0, Some([10, 0, 0, 1]), Some(old), 0),
            route([192, 0, 2, 0], 24, Some([10, 0, 0, 9]), None, 0),
        ];
        let change =
            Change { from: (old.into(), 24), to: ([10, 1, 0, 5].into(), 16), router: Some([10, 1, 0, 1].into()) };
        change.turn(&mut routes);
        let wanted = [
            route([0; 4], 0, Some([10, 1, 0, 1]), Some([10, 1, 0, 5]), 0),
            route([192, 0, 2, 0], 24, Some([10, 0, 0, 9]), None, 0),
        ];
        assert_eq!(routes, wanted);
    }
}
