/* The first process of a pod that does nothing: waits for a signal to end, and reaps what is left to it. */
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static void end(int signal) { _exit(0); }

static void reap(int signal) {
    while (waitpid(-1, NULL, WNOHANG) > 0) {
    }
}

int main(void) {
    if (signal(SIGINT, end) == SIG_ERR || signal(SIGTERM, end) == SIG_ERR || signal(SIGCHLD, reap) == SIG_ERR) {
        return 1;
    }
    for (;;) {
        pause();
    }
}
