package testserver;

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import java.util.concurrent.TimeUnit;

import org.elasticsearch.common.logging.LogConfigurator;
import org.elasticsearch.common.settings.Settings;
import org.elasticsearch.env.Environment;
import org.elasticsearch.node.Node;
import org.elasticsearch.plugins.PluginsLoader;

/**
 * Runs one node in the foreground: {@code Launcher DATA_DIR HTTP_PORT}.
 *
 * <p>{@code -Des.path.home} names the folder with lib, modules and config. Each {@code -Dset.NAME=VALUE}
 * is one more setting of the node. Of what the distribution's own bootstrap does, this leaves out the
 * refusal to run as root, the system call filter, the entitlements and the bootstrap checks.
 */
public final class Launcher {
    private static final String NAME = "test";
    private static final String SETTING = "set.";

    private Launcher() {
    }

    public static void main(String[] args) throws Exception {
        Environment environment = new Environment(settings(Path.of(args[0]).toAbsolutePath(), args[1]), null);
        LogConfigurator.registerErrorListener();
        LogConfigurator.setClusterName(NAME);
        LogConfigurator.setNodeName(NAME);
        LogConfigurator.configure(environment, true);

        Node node = new Node(environment, PluginsLoader.createPluginsLoader(
            PluginsLoader.loadModulesBundles(environment.modulesDir(), false),
            PluginsLoader.loadPluginsBundles(environment.pluginsDir(), false),
            Map.of()));
        Runtime.getRuntime().addShutdownHook(new Thread(() -> close(node)));
        node.start();
        Thread.currentThread().join(); // the node's threads are daemons
    }

    private static Settings settings(Path folder, String port) throws Exception {
        Files.createDirectories(folder.resolve("logs"));
        Settings.Builder settings = Settings.builder()
            .put("path.home", System.getProperty("es.path.home"))
            .put("path.data", folder.resolve("data").toString())
            .put("path.logs", folder.resolve("logs").toString())
            .put("cluster.name", NAME)
            .put("node.name", NAME)
            .put("discovery.type", "single-node")
            .put("network.host", "127.0.0.1")
            .put("http.port", port)
            .put("transport.port", "0")
            .put("cluster.routing.allocation.disk.threshold_enabled", false);
        System.getProperties().stringPropertyNames().stream()
            .filter(name -> name.startsWith(SETTING))
            .forEach(name -> settings.put(name.substring(SETTING.length()), System.getProperty(name)));
        return settings.build();
    }

    private static void close(Node node) {
        try {
            node.prepareForClose();
            node.close();
            node.awaitClose(10, TimeUnit.SECONDS);
        } catch (Exception e) {
            e.printStackTrace();
        }
    }
}
