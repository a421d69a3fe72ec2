// SPDX-License-Identifier: GPL-2.0
/*
 * A handler that asks a server whether it is there: a TCP connection and an
 * ICMP echo.
 */
#include "common.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const char usage[] =
	"usage: ping_server [options] HOST [PORT]\n"
	"A handler that connects to PORT of HOST (default 7) by TCP and sends it one\n"
	"ICMP echo request. HOST is an IPv4 address: a name would need a resolver.\n"
	"Exit status 0 only if all that was asked for answered.\n"
	"  --result FILE    write tcp=ok|<error>, tcp_us=, icmp=ok|<error>, icmp_us=\n"
	"  --timeout-ms N   for each of the two (default 1000)\n"
	"  --no-tcp, --no-icmp\n";

struct probe {
	const char *name;
	int (*ask)(const struct sockaddr_in *server, int timeout_ms);
	bool wanted;
};

/* 0 when the descriptor is ready for the events, else an errno. */
static int wait_ready(int fd, short events, int timeout_ms)
{
	struct pollfd pfd = { .fd = fd, .events = events };
	int n = poll(&pfd, 1, timeout_ms);

	if (n < 0)
		return errno;
	return n ? 0 : ETIMEDOUT;
}

static int finish_connect(int fd, int timeout_ms)
{
	socklen_t size = sizeof(int);
	int error = wait_ready(fd, POLLOUT, timeout_ms);

	if (error)
		return error;
	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size))
		return errno;
	return error;
}

static int ask_tcp(const struct sockaddr_in *server, int timeout_ms)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	int error = 0;

	if (fd < 0)
		return errno;
	if (connect(fd, (const struct sockaddr *)server, sizeof(*server)))
		error = errno;
	if (error == EINPROGRESS)
		error = finish_connect(fd, timeout_ms);
	close(fd);
	return error;
}

static uint16_t checksum(const void *data, size_t size)
{
	const uint16_t *word = data;
	uint32_t sum = 0;

	for (; size > 1; size -= 2)
		sum += *word++;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~sum;
}

static bool is_our_reply(const char *packet, ssize_t size, uint16_t id)
{
	const struct iphdr *ip = (const struct iphdr *)packet;
	const struct icmphdr *icmp;

	if (size < (ssize_t)sizeof(*ip) ||
	    size < ip->ihl * 4 + (ssize_t)sizeof(*icmp))
		return false;
	icmp = (const struct icmphdr *)(packet + ip->ihl * 4);
	return icmp->type == ICMP_ECHOREPLY && icmp->un.echo.id == id;
}

/* On the loopback the raw socket also sees our own request: pass it over. */
static int wait_for_reply(int fd, uint16_t id, int timeout_ms)
{
	uint64_t end = boottime_ns() + (uint64_t)timeout_ms * 1000000;
	char packet[512] __attribute__((aligned(4)));

	for (uint64_t now = boottime_ns(); now < end; now = boottime_ns()) {
		int error = wait_ready(fd, POLLIN,
				       (int)((end - now) / 1000000) + 1);
		ssize_t n;

		if (error)
			return error;
		n = recv(fd, packet, sizeof(packet), 0);
		if (n < 0)
			return errno;
		if (is_our_reply(packet, n, id))
			return 0;
	}
	return ETIMEDOUT;
}

static int ask_icmp(const struct sockaddr_in *server, int timeout_ms)
{
	struct icmphdr request = { .type = ICMP_ECHO };
	int fd = socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_ICMP);
	int error = 0;

	if (fd < 0)
		return errno;
	request.un.echo.id = htons((uint16_t)getpid());
	request.checksum = checksum(&request, sizeof(request));
	if (sendto(fd, &request, sizeof(request), 0,
		   (const struct sockaddr *)server, sizeof(*server)) < 0)
		error = errno;
	else
		error = wait_for_reply(fd, request.un.echo.id, timeout_ms);
	close(fd);
	return error;
}

static void write_result(const char *path, const char *text)
{
	int fd;

	if (!path)
		return;
	fd = create_or_die(path);
	if (write_all(fd, text, strlen(text)) || close(fd))
		die(path);
}

/* Asks one probe, adds its two lines to the text; true if it answered. */
static bool ask(const struct probe *probe, const struct sockaddr_in *server,
		int timeout_ms, char *text, size_t size)
{
	uint64_t begun = boottime_ns();
	size_t used = strlen(text);
	int error;

	if (!probe->wanted)
		return true;
	error = probe->ask(server, timeout_ms);
	snprintf(text + used, size - used, "%s=%s\n%s_us=%llu\n", probe->name,
		 error ? strerror(error) : "ok", probe->name,
		 (unsigned long long)(boottime_ns() - begun) / 1000);
	return !error;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "help", no_argument, NULL, 'h' },
		{ "result", required_argument, NULL, 'r' },
		{ "timeout-ms", required_argument, NULL, 't' },
		{ "no-tcp", no_argument, NULL, 'T' },
		{ "no-icmp", no_argument, NULL, 'I' },
		{ 0 }
	};
	struct probe tcp = { "tcp", ask_tcp, true };
	struct probe icmp = { "icmp", ask_icmp, true };
	struct sockaddr_in server = { .sin_family = AF_INET,
				      .sin_port = htons(7) };
	const char *result = NULL;
	char text[512] = "";
	int timeout_ms = 1000, option;
	bool good;

	while ((option = getopt_long(argc, argv, "+", options, NULL)) != -1) {
		switch (option) {
		case 'h':
			usage_exit(usage, true);
		case 'r':
			result = optarg;
			break;
		case 't':
			timeout_ms = (int)parse_number(optarg, 1, 600000, usage);
			break;
		case 'T':
			tcp.wanted = false;
			break;
		case 'I':
			icmp.wanted = false;
			break;
		default:
			usage_exit(usage, false);
		}
	}
	if (argc - optind < 1 || argc - optind > 2 ||
	    inet_pton(AF_INET, argv[optind], &server.sin_addr) != 1)
		usage_exit(usage, false);
	if (argc - optind == 2)
		server.sin_port = htons((uint16_t)parse_number(
			argv[optind + 1], 1, 65535, usage));
	good = ask(&tcp, &server, timeout_ms, text, sizeof(text));
	good &= ask(&icmp, &server, timeout_ms, text, sizeof(text));
	write_result(result, text);
	return good ? EXIT_OK : EXIT_FAILED;
}
