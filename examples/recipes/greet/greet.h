const char *greet_prefix(void);
int greet(const char *whom);
