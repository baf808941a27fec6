package main

import (
	"encoding/binary"
	"net"
	"strings"
)

const (
	headerSize = 12
	typeA      = 1
	nxDomain   = 3
)

// serveDNS answers A questions for one name over UDP; every other name does not exist.
func serveDNS(listen, name string, address net.IP) error {
	connection, err := net.ListenPacket("udp", listen)
	if err != nil {
		return err
	}
	buffer := make([]byte, 1500)
	for {
		size, peer, err := connection.ReadFrom(buffer)
		if err != nil {
			return err
		}
		if reply := answer(buffer[:size], name, address); reply != nil {
			_, _ = connection.WriteTo(reply, peer)
		}
	}
}

// answer returns the reply to a question, or nil for what is not one.
func answer(query []byte, name string, address net.IP) []byte {
	if len(query) < headerSize || query[2]&0x80 != 0 || binary.BigEndian.Uint16(query[4:]) != 1 {
		return nil
	}
	var labels []string
	position := headerSize
	for {
		if position >= len(query) {
			return nil
		}
		length := int(query[position])
		position++
		if length == 0 {
			break
		}
		if length > 63 || position+length > len(query) {
			return nil
		}
		labels = append(labels, string(query[position:position+length]))
		position += length
	}
	if position+4 > len(query) {
		return nil
	}
	kind := binary.BigEndian.Uint16(query[position:])
	question := query[headerSize : position+4]

	known := strings.EqualFold(strings.Join(labels, "."), strings.TrimSuffix(name, "."))
	reply := make([]byte, headerSize, headerSize+len(question)+16)
	copy(reply, query[:2])
	reply[2] = 0x84 | query[2]&0x01 // a response, authoritative, recursion desired as asked
	reply[3] = 0x80                 // recursion available: some resolvers insist
	binary.BigEndian.PutUint16(reply[4:], 1)
	reply = append(reply, question...)
	if !known {
		reply[3] |= nxDomain
		return reply
	}
	if kind == typeA {
		binary.BigEndian.PutUint16(reply[6:], 1)
		reply = append(reply, 0xc0, headerSize, 0, typeA, 0, 1, 0, 0, 0, 30, 0, 4)
		reply = append(reply, address...)
	}
	return reply
}
