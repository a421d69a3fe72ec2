// SPDX-License-Identifier: GPL-2.0
/* The server that a pinging handler connects to. */
#include "common.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

static const char usage[] =
	"usage: accept_connections PORT\n"
	"Accepts TCP connections on PORT of the loopback address (0: one that is free) and\n"
	"closes them at once. Prints \"port <n>\" when it listens.\n";

int main(int argc, char **argv)
{
	struct sockaddr_in own = { .sin_family = AF_INET,
				   .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t size = sizeof(own);
	int one = 1, server;

	help_if_asked(argc, argv, usage);
	if (argc != 2)
		usage_exit(usage, false);
	own.sin_port = htons((uint16_t)parse_number(argv[1], 0, 65535, usage));
	server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (server < 0 ||
	    setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) ||
	    bind(server, (struct sockaddr *)&own, sizeof(own)) ||
	    listen(server, 128) ||
	    getsockname(server, (struct sockaddr *)&own, &size))
		die("listen");
	/* It must answer while nothing is free. */
	if (mlockall(MCL_CURRENT | MCL_FUTURE) && geteuid() == 0)
		die("mlockall");
	printf("port %d\n", ntohs(own.sin_port));
	fflush(stdout);
	for (;;) {
		int client = accept4(server, NULL, NULL, SOCK_CLOEXEC);

		if (client >= 0)
			close(client);
	}
}
