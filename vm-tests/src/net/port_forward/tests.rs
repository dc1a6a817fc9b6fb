use super::*;
use crate::host::run_dir::RunDir;

fn net(text: &str) -> IpNet {
    text.parse().expect("an address with prefix")
}

/// A guest with a server that echoes bytes until the client closes the connection, then closes it.
fn echo(cable: UnixDatagram, address: IpNet) {
    let mut inside = Stack::new(Cable(cable), &[address]);
    inside
        .interface
        .set_hardware_addr(EthernetAddress([2, 0, 0, 0, 0, 10]).into());
    let buffer = || tcp::SocketBuffer::new(vec![0; 8 * 1024]);
    let handle = inside.sockets.add(tcp::Socket::new(buffer(), buffer()));
    let _ = inside.sockets.get_mut::<tcp::Socket>(handle).listen(6443);
    let mut started = false;
    loop {
        let now = Instant::now();
        inside
            .interface
            .poll(now, &mut inside.cable, &mut inside.sockets);
        let socket = inside.sockets.get_mut::<tcp::Socket>(handle);
        started |= socket.may_recv();
        while socket.can_recv() && socket.can_send() {
            let room = socket.send_capacity() - socket.send_queue();
            let mut bytes = vec![0; room.min(1024)];
            let count = socket.recv_slice(&mut bytes).unwrap_or(0);
            let _ = socket.send_slice(&bytes[..count]);
        }
        if started && !socket.may_recv() && !socket.can_recv() {
            socket.close();
        }
        if started && !socket.is_open() {
            return;
        }
        let mut polled = [PollFd::new(inside.cable.0.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut polled, PollTimeout::from(5u8));
    }
}

#[test]
fn forwarded_port_carries_bytes_and_closes_both_ends() -> Result<()> {
    forward_to(net("192.168.7.10/24"))?;
    forward_to(net("fd00:7::10/64"))
}

fn forward_to(guest: IpNet) -> Result<()> {
    let run_dir = RunDir::new("port_forward")?;
    let switch = Switch::start(&run_dir)?;
    let cable = switch.plug()?;
    cable.set_nonblocking(true)?;
    let echoing = std::thread::spawn(move || echo(cable, guest));
    let own = [net("192.168.7.1/24"), net("fd00:7::1/64")];
    let port_forward = PortForward::start(&switch, &own)?;
    let address = port_forward.forward(0, SocketAddr::new(guest.addr(), 6443))?;

    let sent: Vec<u8> = (0..300_000u32).map(|number| (number % 251) as u8).collect();
    let mut client = TcpStream::connect(address)?;
    let mut writer = client.try_clone()?;
    let bytes = sent.clone();
    let writing = std::thread::spawn(move || {
        writer
            .write_all(&bytes)
            .and_then(|()| writer.shutdown(std::net::Shutdown::Write))
    });
    let mut received = Vec::new();
    client.read_to_end(&mut received)?;
    assert!(
        received == sent,
        "{} of {} bytes came back",
        received.len(),
        sent.len()
    );
    writing.join().expect("the writer ends")?;
    echoing.join().expect("the guest ends");
    let inside = |address: &std::net::IpAddr| guest.contains(address) || address.is_multicast();
    assert!(
        switch.destinations().iter().all(inside),
        "{:?}",
        switch.destinations()
    );
    run_dir.passed();
    Ok(())
}
