package testserver;

import org.codelibs.opensearch.runner.OpenSearchRunner;

/** One node for tests: {@code Launcher FOLDER HTTP-PORT TRANSPORT-PORT}. The runner's own main() says nothing of a failed start. */
public final class Launcher {
    private Launcher() {}

    public static void main(String[] args) throws Exception {
        OpenSearchRunner runner = new OpenSearchRunner();
        try {
            runner.onBuild((number, settings) ->
                    settings.put("network.host", "127.0.0.1").put("http.port", args[1])
                    .put("transport.port", args[2]))
                .build(OpenSearchRunner.newConfigs()
                    .basePath(args[0]).clusterName("tests").numOfNode(1).useLogger());
        } catch (Throwable failure) {
            failure.printStackTrace();
            System.exit(1);
        }
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            try {
                runner.close();
            } catch (Exception failure) {
                failure.printStackTrace();
            }
        }));
        Thread.currentThread().join();
    }
}
